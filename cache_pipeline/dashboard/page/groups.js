// Figures by queue or another dimension: a table to filter and sort.

import { difference, formatValue } from './format.js'
import { h } from './html.js'
import { valueOf } from './measures.js'

/** The rows: `{id, name, values: {measure: number | null}, before: {…}}`. */
export function groupRows(now, before, measures, names) {
  return [...now].map(([id, sums]) => ({
    id,
    name: names[id] ?? (id === '' ? 'without a value' : id),
    values: Object.fromEntries(measures.map(measure => [measure.key, valueOf(measure, sums)])),
    before: Object.fromEntries(measures.map(measure => [measure.key, valueOf(measure, before.get(id))])),
  }))
}

export function sortRows(rows, { key, descending }) {
  const value = key === 'name' ? row => row.name.toLocaleLowerCase() : row => row.values[key]
  // Rows without a figure come last in either direction.
  return [...rows].sort((a, b) => {
    const [one, other] = [value(a), value(b)]
    if (one === null || other === null) return (one === null) - (other === null)
    return (one < other ? -1 : one > other ? 1 : a.id < b.id ? -1 : 1) * (descending ? -1 : 1)
  })
}

/** `state` is `{key, descending, text}`; `resort` is called with the key of the column that was clicked. */
export function groupTable({ rows, measures, state, heading, against, resort }) {
  const searchText = state.text.trim().toLocaleLowerCase()
  const shown = sortRows(rows, state).filter(({ name, id }) => `${name} ${id}`.toLocaleLowerCase().includes(searchText))
  const most = Math.max(...rows.map(({ values }) => values.offered ?? 0), 1)
  const compared = rows.some(({ before }) => before.offered !== null && before.offered !== undefined)
  const columns = [{ key: 'name', name: heading, kind: 'text' }, ...measures]
  const head = ({ key, name, kind }) => {
    const own = state.key === key
    return h('th', { scope: 'col', class: kind, 'aria-sort': own ? (state.descending ? 'descending' : 'ascending') : 'none' },
      h('button', { type: 'button', 'data-key': key, onclick: () => resort(key) }, name,
        h('span', { class: 'order', 'aria-hidden': 'true' }, own ? (state.descending ? '▼' : '▲') : '')))
  }
  const body = ({ id, name, values, before }) => {
    const bar = h('span', { class: 'size', 'aria-hidden': 'true' })
    bar.style.setProperty('--share', `${((values.offered ?? 0) / most) * 100}%`)
    const first = difference(values.offered ?? null, before.offered ?? null, 'count')
    return h('tr', {},
      h('th', { scope: 'row', title: name === id ? null : id }, h('span', { class: 'name' }, name), bar),
      measures.flatMap(({ key, kind }) => [
        h('td', { class: kind }, formatValue(values[key], kind)),
        key === 'offered' && compared ? h('td', { class: 'delta' }, first ? first.text : '–') : null,
      ]))
  }
  const heads = columns.flatMap(column => [head(column),
    column.key === 'offered' && compared ? h('th', { scope: 'col', class: 'delta' }, `on ${against}`) : null])
  return [
    h('p', { class: 'hidden', role: 'status' }, searchText ? `${shown.length} of ${rows.length} shown` : ''),
    h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': `Figures by ${heading.toLowerCase()}` },
      h('table', { class: 'groups' },
        h('caption', { class: 'hidden' }, `Figures by ${heading.toLowerCase()}`),
        h('thead', {}, h('tr', {}, heads)),
        h('tbody', {}, shown.length ? shown.map(body) : h('tr', {}, h('td', { colspan: heads.filter(Boolean).length }, `No ${heading.toLowerCase()} has “${state.text}” in its name.`))))),
  ]
}
