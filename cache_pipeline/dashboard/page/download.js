// CSV for spreadsheets: figures as they are, not as they are shown; times in milliseconds.

import { h } from './html.js'

function field(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return ''
  if (typeof value === 'number') return String(value)
  // A leading =, +, - or @ would be run as a formula by a spreadsheet.
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

/** Lines of RFC 4180. */
export const csv = rows => rows.map(row => `${row.map(field).join(',')}\r\n`).join('')

/** Hand the reader a file. */
export function save(name, rows) {
  const url = URL.createObjectURL(new Blob(['\ufeff', csv(rows)], { type: 'text/csv;charset=utf-8' }))
  const link = h('a', { href: url, download: name })
  link.click()
  setTimeout(() => URL.revokeObjectURL(url), 10_000)
}
