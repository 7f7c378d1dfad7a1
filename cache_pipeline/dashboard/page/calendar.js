// Local days and hours of a data set's time zone. Days are numbers counted from 1970-01-01, so that they can be added and subtracted.

const DAY_MS = 86_400_000

/** Day number of a local date such as 2026-03-29. */
export const dayNumber = date => Date.parse(`${date}T00:00:00Z`) / DAY_MS

/** The date of a day number. */
export const dateOf = day => new Date(day * DAY_MS).toISOString().slice(0, 10)

/** 0 for Monday to 6 for Sunday. */
export const weekday = day => (day + 3) % 7

/** A function from instants (milliseconds) to `{day, hour}` in the zone. Results are cached. */
export function localClock(zone) {
  const format = new Intl.DateTimeFormat('en-CA', {
    timeZone: zone, hourCycle: 'h23', year: 'numeric', month: '2-digit', day: '2-digit', hour: '2-digit',
  })
  const cache = new Map()
  return instant => {
    let found = cache.get(instant)
    if (!found) {
      const parts = Object.fromEntries(format.formatToParts(instant).map(({ type, value }) => [type, value]))
      found = { day: dayNumber(`${parts.year}-${parts.month}-${parts.day}`), hour: Number(parts.hour) }
      cache.set(instant, found)
    }
    return found
  }
}

/** The first instant of a local day, also where the clocks skip midnight. Found by bisection, because no API returns it. */
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
