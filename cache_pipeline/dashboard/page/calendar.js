// Local days and hours of a data set's time zone. Days are numbered from 1970-01-01, so that they can be added to.

const DAY_MS = 86_400_000

/** Day number of a local date, 2026-03-29 say. */
export const dayNumber = date => Date.parse(`${date}T00:00:00Z`) / DAY_MS

/** The date of a day number. */
export const dateOf = day => new Date(day * DAY_MS).toISOString().slice(0, 10)

/** 0 for Monday to 6 for Sunday. */
export const weekday = day => (day + 3) % 7

/** A reader of instants (milliseconds): `{day, hour}` in the zone. Each instant is worked out once. */
export function localClock(zone) {
  const format = new Intl.DateTimeFormat('en-CA', {
    timeZone: zone, hourCycle: 'h23', year: 'numeric', month: '2-digit', day: '2-digit', hour: '2-digit',
  })
  const known = new Map()
  return instant => {
    let found = known.get(instant)
    if (!found) {
      const parts = Object.fromEntries(format.formatToParts(instant).map(({ type, value }) => [type, value]))
      found = { day: dayNumber(`${parts.year}-${parts.month}-${parts.day}`), hour: Number(parts.hour) }
      known.set(instant, found)
    }
    return found
  }
}

/** The first instant of a local day, also where the clocks skip midnight: searched for, since no API tells it. */
export function midnight(day, clock) {
  let low = day * DAY_MS - 15 * 3_600_000
  let high = day * DAY_MS + 15 * 3_600_000
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    if (clock(middle).day < day) low = middle
    else high = middle
  }
  return high
}
