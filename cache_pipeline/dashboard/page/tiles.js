// Tiles with the main figures: each compared with the period before, and its last day with the same weekday a week earlier.

import { sparkline } from './charts.js'
import { difference, formatValue } from './format.js'
import { h } from './html.js'

function changeLine(found, good, against) {
  if (!found) return h('p', { class: 'change none' }, `nothing to compare with`)
  const verdict = found.sign === 0 || good === 0 ? null : found.sign === good ? 'better' : 'worse'
  return h('p', { class: `change ${verdict ?? ''}` },
    h('b', {}, found.text), verdict ? ` ${verdict}` : null, h('span', { class: 'hidden' }, ` on ${against}`))
}

/** One tile; `before` and `sameDay` are null where there is nothing to compare with. */
export function tile({ measure, now, before, against, day, dayName, sameDay, weekdayName, trend }) {
  const { name, kind, good } = measure
  const last = difference(day, sameDay, kind)
  return h('li', { class: 'tile' },
    h('h3', {}, name),
    h('p', { class: 'value' }, formatValue(now, kind)),
    changeLine(difference(now, before, kind), good, against),
    h('p', { class: 'day' }, h('span', {}, dayName), h('b', {}, formatValue(day, kind)),
      last ? h('span', {}, last.text, h('span', { class: 'hidden' }, ` on the ${weekdayName} before`)) : null),
    sparkline(trend))
}
