// Tiles with the main figures: each compared with the period before, and its last day with the same weekday a week earlier.

import { sparkline } from './charts.js'
import { difference, formatValue } from './format.js'
import { h } from './html.js'

function changeLine(found, good, against, reason) {
  if (!found) return h('p', { class: 'change none' }, reason)
  const verdict = found.sign === 0 || good === 0 ? null : found.sign === good ? 'better' : 'worse'
  return h('p', { class: `change ${verdict ?? ''}` },
    h('b', {}, found.text), verdict ? ` ${verdict}` : null, h('span', { class: 'hidden' }, ` on ${against}`))
}

function whyNot(now, before, against, missing) {
  if (missing) return `nothing to compare with: ${missing}`
  if (now === null) return 'no figure in this period'
  return `nothing to compare with: ${before === 0 ? '0' : 'no figure'} in ${against}`
}

/** One tile; `missing` says which days `before` lacks, or is null where all of them are published. */
export function tile({ measure, now, before, missing, against, day, dayName, sameDay, weekdayName, trend }) {
  const { name, kind, good } = measure
  const last = difference(day, sameDay, kind)
  const value = formatValue(now, kind)
  return h('li', { class: 'tile' },
    h('h3', {}, name),
    h('p', { class: value.length > 8 ? 'value long' : 'value' }, value),
    changeLine(difference(now, before, kind), good, against, whyNot(now, before, against, missing)),
    h('p', { class: 'day' }, h('span', {}, dayName), h('b', {}, formatValue(day, kind)),
      last ? h('span', {}, last.text, h('span', { class: 'hidden' }, ` on the ${weekdayName} before`)) : null),
    sparkline(trend))
}
