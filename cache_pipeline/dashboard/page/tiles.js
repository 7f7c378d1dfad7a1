// The figures at a glance, each against the period before and its last day against the same weekday.

import { sparkline } from './charts.js'
import { difference, written } from './format.js'
import { h } from './html.js'

function changed(found, good, against) {
  if (!found) return h('p', { class: 'change none' }, `No ${against} to compare with`)
  const verdict = found.sign === 0 || good === 0 ? 'neither' : found.sign === good ? 'better' : 'worse'
  const arrow = { 1: '▲', '-1': '▼', 0: '=' }[found.sign]
  return h('p', { class: `change ${verdict}` },
    h('b', {}, h('span', { 'aria-hidden': 'true' }, `${arrow} `), found.text,
      verdict === 'neither' ? null : h('span', { class: 'verdict' }, verdict)),
    ` on ${against}`)
}

/** One tile: `{measure, now, before, against, day, dayText, sameDay, trend}`. */
export function tile({ measure, now, before, against, day, dayName, sameDay, weekdayName, trend }) {
  const { name, kind, good } = measure
  const last = difference(day, sameDay, kind)
  return h('li', { class: 'tile' },
    h('h3', {}, name),
    h('p', { class: 'value' }, written(now, kind)),
    changed(difference(now, before, kind), good, against),
    h('p', { class: 'day' }, `${dayName}: `, h('b', {}, written(day, kind)),
      last ? `, ${last.text} on the ${weekdayName} before` : ''),
    sparkline(trend))
}
