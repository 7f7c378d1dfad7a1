// Formatting of figures and times. The browser's language decides separators; times are in the data set's zone.

const LANGUAGE = navigator.language || 'en'
const whole = new Intl.NumberFormat(LANGUAGE, { maximumFractionDigits: 0 })
const short = new Intl.NumberFormat(LANGUAGE, { notation: 'compact', maximumFractionDigits: 1 })
const percent = new Intl.NumberFormat(LANGUAGE, { style: 'percent', minimumFractionDigits: 1, maximumFractionDigits: 1 })
const change = new Intl.NumberFormat(LANGUAGE, { style: 'percent', minimumFractionDigits: 1, maximumFractionDigits: 1, signDisplay: 'exceptZero' })
const points = new Intl.NumberFormat(LANGUAGE, { minimumFractionDigits: 1, maximumFractionDigits: 1, signDisplay: 'exceptZero' })
const withMinusSign = text => text.replace('-', '−')

export const NONE = '–'

function formatDuration(milliseconds) {
  const total = Math.round(milliseconds / 1000)
  if (total < 60) return `${total} s`
  const [hours, minutes] = [Math.floor(total / 3600), Math.floor(total / 60) % 60]
  const rest = String(total % 60).padStart(2, '0')
  return hours ? `${hours}:${String(minutes).padStart(2, '0')}:${rest}` : `${minutes}:${rest} min`
}

const FORMATTERS = { count: value => whole.format(value), share: value => percent.format(value), duration: formatDuration }

/** A figure of a kind (count, share, duration in milliseconds), or a dash. */
export const formatValue = (value, kind) => (value === null || !Number.isFinite(value) ? NONE : FORMATTERS[kind](value))

/** A short form for axes and table cells. */
export function formatShort(value, kind) {
  if (value === null || !Number.isFinite(value)) return ''
  if (kind === 'count') return value < 10 && value % 1 ? value.toFixed(1) : value < 1000 ? whole.format(value) : short.format(value)
  if (kind === 'share') return `${Math.round(value * 100)}%`
  const total = Math.round(value / 1000)
  return total < 60 ? `${total}s` : `${Math.floor(total / 60)}:${String(total % 60).padStart(2, '0')}`
}

/** Texts of an axis: as many digits as tell every mark from the next and show it exactly. */
export function axisTexts(marks, kind) {
  if (kind === 'duration') return marks.map(mark => formatShort(mark, kind))
  const step = marks.length > 1 ? marks[1] - marks[0] : 1
  const largest = Math.max(...marks.map(Math.abs))
  const unit = kind === 'share' ? 0.01 : largest < 1000 ? 1 : 10 ** (3 * Math.floor(Math.log10(largest) / 3))
  const digits = [0, 1, 2, 3, 4].find(count => Math.abs(Math.round((step / unit) * 10 ** count) / 10 ** count - step / unit) < step / unit / 1000) ?? 4
  const options = { maximumFractionDigits: digits, ...(kind === 'share' ? { style: 'percent', minimumFractionDigits: digits } : unit > 1 ? { notation: 'compact' } : {}) }
  const format = new Intl.NumberFormat(LANGUAGE, options)
  return marks.map(mark => format.format(mark))
}

/** The difference of two figures: in per cent, or percentage points for shares; null where it is undefined. */
export function difference(now, before, kind) {
  if (now === null || before === null || !Number.isFinite(now) || !Number.isFinite(before)) return null
  if (kind === 'share') {
    const amount = (now - before) * 100
    return { sign: Math.sign(Math.round(amount * 10)), text: `${withMinusSign(points.format(amount))} pts` }
  }
  if (before === 0) return null
  const amount = now / before - 1
  return { sign: Math.sign(Math.round(amount * 1000)), text: withMinusSign(change.format(amount)) }
}

const formatters = new Map()
function dateFormatter(options, zone) {
  const key = JSON.stringify([options, zone])
  if (!formatters.has(key)) formatters.set(key, new Intl.DateTimeFormat('en-GB', { ...options, timeZone: zone }))
  return formatters.get(key)
}

const atDay = day => day * 86_400_000

/** Tue 24 Nov */
export const dayText = day => dateFormatter({ weekday: 'short', day: 'numeric', month: 'short' }, 'UTC').format(atDay(day)).replace(',', '')

/** Tue 24 Nov 2026 */
export const longDay = day =>
  dateFormatter({ weekday: 'short', day: 'numeric', month: 'short', year: 'numeric' }, 'UTC').format(atDay(day)).replace(',', '')

/** 24 Nov */
export const shortDay = day => dateFormatter({ day: 'numeric', month: 'short' }, 'UTC').format(atDay(day))

/** 24 Nov 2026 */
export const shortDayOfYear = day => dateFormatter({ day: 'numeric', month: 'short', year: 'numeric' }, 'UTC').format(atDay(day))

/** Tue 24 Nov 2026, 18:40 */
export function formatInstant(instant, zone) {
  const options = { weekday: 'short', day: 'numeric', month: 'short', year: 'numeric' }
  const day = dateFormatter(options, zone).format(instant).replace(',', '')
  return `${day}, ${dateFormatter({ hour: '2-digit', minute: '2-digit' }, zone).format(instant)}`
}

export const WEEKDAYS = ['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday']

/** `queue_id` → queue */
export const dimensionText = name => name.replace(/_id$/, '').replaceAll('_', ' ')
