// Sums of the published rows: by local day, by weekday and hour, and by group. All figures on the page come from these sums.

import { localClock } from './calendar.js'

const START = 'interval_start'

class Sums {
  constructor(columns) {
    this.columns = columns
    this.rows = new Map()
  }

  add(key, table, row) {
    let sums = this.rows.get(key)
    if (!sums) {
      sums = Object.fromEntries(this.columns.map(column => [column, null]))
      this.rows.set(key, sums)
    }
    for (const column of this.columns) {
      const value = table[column][row]
      // A suppressed or missing figure adds nothing; a sum of only missing figures stays missing.
      if (value !== null && value !== undefined) sums[column] = (sums[column] ?? 0) + value
    }
  }
}

/** Sums over days first to last (both included) of decoded files; `groupBy` is a dimension, or null. */
export function sumRows(files, { zone, columns, first, last, groupBy, keep }) {
  const clock = localClock(zone)
  const [total, days, cells, hours, groups] = Array.from({ length: 5 }, () => new Sums(columns))
  for (const { rows, columns: table } of files) {
    for (let row = 0; row < rows; row++) {
      const { day, hour } = clock(table[START][row])
      if (day < first || day > last) continue
      if (keep && !keep(table, row)) continue
      days.add(day, table, row)
      total.add('all', table, row)
      cells.add(`${(day + 3) % 7}:${hour}`, table, row)
      hours.add(hour, table, row)
      if (groupBy) groups.add(table[groupBy][row] ?? '', table, row)
    }
  }
  return { total: total.rows.get('all') ?? null, days: days.rows, cells: cells.rows, hours: hours.rows, groups: groups.rows }
}

/** The days of a data set: which are published, which are provisional, and the last one that is completely final. */
export function publishedDays(dataset, clock) {
  const published = new Set()
  const open = new Set()
  const addDays = (days, parts) => {
    for (const part of parts) {
      const [start, end] = part.split('/').map(Date.parse)
      for (let day = clock(start).day; day <= clock(end - 1).day; day++) days.add(day)
    }
  }
  for (const file of dataset.files) {
    addDays(published, file.covered)
    addDays(open, file.provisional ?? [])
  }
  const ordered = [...published].sort((a, b) => a - b)
  const completeThrough = dataset.complete_through ? Date.parse(dataset.complete_through) : null
  const lastFinal = completeThrough === null ? null : clock(completeThrough).day - 1
  const provisional = dataset.provisional_from ? clock(Date.parse(dataset.provisional_from)).day : null
  const last = ordered.filter(day => lastFinal === null || day <= lastFinal).at(-1) ?? ordered.at(-1) ?? null
  return {
    published,
    first: ordered[0] ?? null,
    newest: ordered.at(-1) ?? null,
    last,
    isProvisional: day => open.has(day) || (provisional !== null && day >= provisional) || (lastFinal !== null && day > lastFinal),
  }
}

/** The files that hold days first to last. */
export function filesBetween(dataset, clock, first, last) {
  return dataset.files.filter(({ covered }) => covered.some(part => {
    const [start, end] = part.split('/').map(Date.parse)
    return clock(end - 1).day >= first && clock(start).day <= last
  }))
}
