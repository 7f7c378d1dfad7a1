// The heat map of busy times: weekday by hour, or week by weekday for daily data sets. It is a coloured table.

import { dateOf, weekday } from './calendar.js'
import { WEEKDAYS, formatShort, dayText, shortDay, formatValue } from './format.js'
import { h } from './html.js'
import { valueOf } from './measures.js'

const STEPS = 8

function cell(value, low, high, measure, label) {
  if (value === null || !Number.isFinite(value)) return h('td', { class: 'heat none' }, h('span', { class: 'hidden' }, 'no figure'))
  const step = high > low ? Math.min(STEPS - 1, Math.floor(((value - low) / (high - low)) * STEPS)) : 0
  return h('td', { class: `heat h${step}`, title: `${label}: ${formatValue(value, measure.kind)}` }, h('span', {}, formatShort(value, measure.kind)))
}

function table(caption, heads, rows, measure) {
  const all = rows.flatMap(({ cells }) => cells.map(({ value }) => value)).filter(value => value !== null && Number.isFinite(value))
  const [low, high] = all.length ? [measure.kind === 'count' ? 0 : Math.min(...all), Math.max(...all)] : [0, 1]
  const scale = h('p', { class: 'scale' }, formatValue(low, measure.kind),
    h('span', { class: 'steps', 'aria-hidden': 'true' }, Array.from({ length: STEPS }, (_, step) => h('i', { class: `h${step}` }))),
    formatValue(high, measure.kind))
  return [
    h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption },
      h('table', { class: 'heatmap' },
        h('caption', {}, caption),
        h('thead', {}, h('tr', {}, h('td', {}), heads.map(head => h('th', { scope: 'col' }, head)))),
        h('tbody', {}, rows.map(({ head, cells }) =>
          h('tr', {}, h('th', { scope: 'row' }, head), cells.map(({ value, label }) => cell(value, low, high, measure, label))))))),
    scale,
  ]
}

/** `figures` come from `sumRows`; counts are means per day, so that periods of 7 and 91 days are comparable. */
export function hourMap(figures, measure, days, periodText) {
  const count = Array.from({ length: 7 }, (_, number) => days.filter(day => weekday(day) === number && figures.days.has(day)).length)
  const hours = [...figures.hours.keys()].sort((a, b) => a - b)
  const shown = hours.length ? Array.from({ length: hours.at(-1) - hours[0] + 1 }, (_, place) => hours[0] + place) : []
  const rows = WEEKDAYS.map((name, number) => ({
    head: name.slice(0, 3),
    cells: shown.map(hour => {
      const value = valueOf(measure, figures.cells.get(`${number}:${hour}`))
      const mean = measure.kind === 'count' && value !== null ? value / count[number] : value
      return { value: mean, label: `${name}, ${hour}:00` }
    }),
  }))
  const what = measure.kind === 'count' ? `${measure.name}, mean of an hour` : measure.name
  return table(`${what}: weekday by hour, ${periodText}`, shown.map(hour => String(hour).padStart(2, '0')), rows, measure)
}

/** The heat map by week and weekday. */
export function weekMap(figures, measure, days) {
  const weeks = [...new Set(days.map(day => day - weekday(day)))].sort((a, b) => b - a)
  const rows = weeks.map(monday => ({
    head: shortDay(monday),
    cells: WEEKDAYS.map((_, number) => ({
      value: days.includes(monday + number) ? valueOf(measure, figures.days.get(monday + number)) : null,
      label: dayText(monday + number),
    })),
  }))
  return table(`${measure.name}: week by weekday`, WEEKDAYS.map(name => name.slice(0, 3)), rows, measure)
}

/** A date range for the file name of a download. */
export const spanText = days => (days.length ? `${dateOf(days[0])}_${dateOf(days.at(-1))}` : 'none')
