// CSV downloads for spreadsheets: exact figures, not the rounded ones on screen; durations in milliseconds.

import { h } from './html.js'

function field(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return ''
  if (typeof value === 'number') return String(value)
  // A spreadsheet would run text with a leading =, +, - or @ as a formula.
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

/** CSV text as RFC 4180 defines it. */
export const csv = rows => rows.map(row => `${row.map(field).join(',')}\r\n`).join('')

/** Download the rows as a CSV file. */
export function save(name, rows) {
  const url = URL.createObjectURL(new Blob(['\ufeff', csv(rows)], { type: 'text/csv;charset=utf-8' }))
  const link = h('a', { href: url, download: name })
  link.click()
  setTimeout(() => URL.revokeObjectURL(url), 10_000)
}
