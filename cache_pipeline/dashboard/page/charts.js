// Charts by day as SVG. Each can be read with the arrow keys and has its figures in a table below it.

import { h, s, textTable } from './html.js'
import { axisTexts, dayText, longDay, shortDay, shortDayOfYear, formatValue } from './format.js'
import { dateOf, weekday } from './calendar.js'
import { save } from './download.js'

const HEIGHT = { tall: 220, low: 150 }
const PAD = { top: 10, right: 8, bottom: 28, left: 44 }
const LABEL_GAP = 8

const widths = new Map()
/** The width of a label, measured in the page's own font. */
function textWidth(text) {
  if (!widths.has(text)) {
    const label = s('text', { class: 'tick' }, text)
    const probe = s('svg', { class: 'hidden', 'aria-hidden': 'true' }, label)
    document.body.append(probe)
    widths.set(text, label.getComputedTextLength())
    probe.remove()
  }
  return widths.get(text)
}

/** The labels of the days, counted back from the last: as many as fit beside each other, each `{text, left, width}`. */
export function dayLabels(days, x, width) {
  const place = (index, text) => {
    const own = textWidth(text)
    return { text, width: own, left: Math.max(0, Math.min(width - own, x(index) - own / 2)) }
  }
  const texts = [...(days.length <= 14 ? [dayText] : []), days.length > 180 ? shortDayOfYear : shortDay]
  const ends = Math.max(1, days.length - 1)
  const steps = days.length > 14 ? [1, 7, 14, 28, 56, 91, 182, ends, days.length] : [1, 2, 3, 4, 7, ends, days.length]
  let labels = []
  for (const every of steps) {
    for (const text of texts) {
      labels = days.map((day, index) => ({ day, index })).filter(({ index }) => (days.length - 1 - index) % every === 0)
        .map(({ day, index }) => place(index, text(day)))
      if (labels.every(({ left }, index) => index === 0 || left - labels[index - 1].left - labels[index - 1].width >= LABEL_GAP)) return labels
    }
  }
  return labels
}

/** Round numbers from 0 (or just below `low`) up to `high`, at most five. */
export function ticks(low, high, kind) {
  if (high <= low) high = low + (kind === 'share' ? 0.1 : 1)
  const rough = (high - low) / 4
  const units = kind === 'duration' ? [1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600].map(n => n * 1000) : null
  let step = units?.find(unit => unit >= rough)
  if (!step) {
    const power = 10 ** Math.floor(Math.log10(rough))
    step = power * [1, 2, 5, 10].find(factor => factor * power >= rough)
    if (kind === 'count') step = Math.max(step, 1)
  }
  const first = Math.floor(low / step)
  return Array.from({ length: Math.ceil(high / step - 1e-9) - first + 1 }, (_, index) => (first + index) * step)
}

const finiteValues = values => values.filter(value => value !== null && Number.isFinite(value))

function scaleOf(chart) {
  const bars = chart.series.filter(({ mark }) => mark === 'bar')
  const stacked = bars.length ? chart.days.map((_, index) => bars.reduce((all, { values }) => all + (values[index] ?? 0), 0)) : []
  const all = finiteValues([...stacked, ...chart.series.filter(({ mark }) => mark !== 'bar').flatMap(({ values }) => values)])
  const high = all.length ? Math.max(...all) : 1
  // A share that stays above 90 % would be a flat line on a scale that starts at 0.
  const least = all.length ? Math.min(...all) : 0
  // A share that never changes gets a tenth below it, or the axis would have one mark and no height.
  const spread = (high - least) * 0.4 || 0.1
  const low = chart.kind === 'share' && !bars.length && least > high / 2 ? Math.max(0, least - spread) : 0
  const marks = ticks(low, high, chart.kind)
  if (chart.kind === 'share' && marks.at(-1) > 1) marks.splice(marks.findIndex(mark => mark >= 1 - 1e-9) + 1)
  return marks
}

function line(values, x, y) {
  let path = ''
  let pen = 'M'
  values.forEach((value, index) => {
    if (value === null || !Number.isFinite(value)) pen = 'M'
    else {
      path += `${pen}${x(index).toFixed(1)} ${y(value).toFixed(1)}`
      pen = 'L'
    }
  })
  return path
}

function drawChart(chart, width) {
  const height = HEIGHT[chart.size]
  const { days } = chart
  const marks = scaleOf(chart)
  const [low, high] = [marks[0], marks.at(-1)]
  const texts = axisTexts(marks, chart.kind)
  const padLeft = Math.ceil(Math.max(PAD.left, ...texts.map(text => textWidth(text) + 12)))
  const inner = { width: width - padLeft - PAD.right, height: height - PAD.top - PAD.bottom }
  const band = inner.width / days.length
  const x = index => padLeft + (index + 0.5) * band
  const y = value => PAD.top + inner.height * (1 - (value - low) / (high - low))
  const svg = s('svg', { viewBox: `0 0 ${width} ${height}`, width, height, 'aria-hidden': 'true' })

  days.forEach((day, index) => {
    if (weekday(day) > 4 && days.length <= 100) {
      svg.append(s('rect', { class: 'weekend', x: padLeft + index * band, y: PAD.top, width: band, height: inner.height }))
    }
  })
  marks.forEach((mark, index) => {
    svg.append(
      s('line', { class: mark === 0 ? 'base' : 'grid', x1: padLeft, x2: width - PAD.right, y1: y(mark), y2: y(mark) }),
      s('text', { class: 'tick value-tick', x: padLeft - 8, y: y(mark) + 4, 'text-anchor': 'end' }, texts[index]),
    )
  })
  for (const { text, left } of dayLabels(days, x, width)) {
    svg.append(s('text', { class: 'tick day-tick', x: left.toFixed(1), y: height - 6 }, text))
  }

  const floor = days.map(() => 0)
  for (const series of chart.series) {
    if (series.mark === 'bar') {
      const broad = Math.max(Math.min(band * 0.72, 46), 1)
      series.values.forEach((value, index) => {
        if (!value) return
        const [bottom, top] = [y(floor[index]), y(floor[index] + value)]
        floor[index] += value
        svg.append(s('rect', {
          class: `bar ${series.look}${chart.isProvisional(days[index]) ? ' provisional' : ''}`,
          x: x(index) - broad / 2, y: top, width: broad, height: Math.max(bottom - top, 0.5),
          rx: Math.min(2, band / 6),
        }))
      })
    } else {
      svg.append(s('path', { class: `line ${series.look}`, d: line(series.values, x, y) }))
      if (series.mark === 'line' && days.length <= 31) {
        series.values.forEach((value, index) => {
          if (value === null || !Number.isFinite(value)) return
          svg.append(s('circle', { class: `dot ${series.look}${chart.isProvisional(days[index]) ? ' provisional' : ''}`, cx: x(index), cy: y(value), r: 2.5 }))
        })
      }
    }
  }
  const cursor = s('line', { class: 'cursor', y1: PAD.top, y2: PAD.top + inner.height, x1: -10, x2: -10 })
  svg.append(cursor)
  return { svg, cursor, x, indexAt: left => Math.max(0, Math.min(days.length - 1, Math.floor((left - padLeft) / band))) }
}

/**
 * Draw a chart: `{title, kind, size, days, series: [{name, mark: bar | line | ghost, look, values}], isProvisional}`, where
 * values are indexed by day. Bars are stacked.
 */
export function dayChart(chart) {
  const provisionalNote = index => (chart.isProvisional(chart.days[index]) ? ' (provisional)' : '')
  const valuesText = index => chart.series.map(({ name, values }) => `${name} ${formatValue(values[index], chart.kind)}`).join(', ')
  const readout = h('p', { class: 'readout', 'aria-hidden': 'true' })
  const plot = h('div', {
    class: 'plot', tabindex: '0', role: 'slider', 'aria-orientation': 'horizontal',
    'aria-label': `${chart.title} by day`, 'aria-valuemin': 0, 'aria-valuemax': chart.days.length - 1,
  })
  let index = chart.days.length - 1
  let picture = null

  function select(to, shown = true) {
    index = to
    plot.setAttribute('aria-valuenow', index)
    plot.setAttribute('aria-valuetext', `${longDay(chart.days[index])}${provisionalNote(index)}: ${valuesText(index)}`)
    const at = shown && picture ? picture.x(index) : -10
    picture?.cursor.setAttribute('x1', at)
    picture?.cursor.setAttribute('x2', at)
    readout.replaceChildren(...(shown ? [h('b', {}, dayText(chart.days[index])), ` ${valuesText(index)}${provisionalNote(index)}`] : []))
  }

  const STEPS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -7, PageUp: 7, Home: -Infinity, End: Infinity }
  plot.addEventListener('keydown', event => {
    if (!(event.key in STEPS)) return
    event.preventDefault()
    select(Math.max(0, Math.min(chart.days.length - 1, index + STEPS[event.key])))
  })
  plot.addEventListener('focus', () => select(index))
  plot.addEventListener('blur', () => select(index, false))
  plot.addEventListener('pointermove', event => select(picture.indexAt(event.clientX - plot.getBoundingClientRect().left)))
  plot.addEventListener('pointerleave', () => select(index, document.activeElement === plot))

  let width = 0
  new ResizeObserver(() => {
    const now = Math.floor(plot.clientWidth)
    if (now === width || now < 80) return
    width = now
    picture = drawChart(chart, width)
    plot.replaceChildren(picture.svg)
  }).observe(plot)
  select(index, false)

  const table = h('details', {}, h('summary', {}, 'As a table'))
  table.addEventListener('toggle', () => {
    if (!table.open || table.querySelector('table')) return
    const rows = chart.days.map((day, row) =>
      [`${longDay(day)}${provisionalNote(row)}`, ...chart.series.map(({ values }) => formatValue(values[row], chart.kind))])
    table.append(h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': `${chart.title} as a table` },
      textTable(`${chart.title} by day`, ['Day', ...chart.series.map(({ name }) => name)], rows.reverse())))
  })
  return h('figure', { class: `chart ${chart.size}` },
    h('figcaption', {}, h('h3', {}, chart.title), legend(chart), readout), plot,
    h('div', { class: 'behind' }, table, h('button', { type: 'button', class: 'csv', 'aria-label': `Download ${chart.title} as CSV`, onclick: () => saveChart(chart) }, 'Download CSV')))
}

function saveChart({ name, title, days, series, kind, isProvisional }) {
  const unit = kind === 'duration' ? ' (ms)' : ''
  save(`${name}_${title.toLowerCase().replaceAll(' ', '_')}_${dateOf(days[0])}_${dateOf(days.at(-1))}.csv`,
    [['day', ...series.map(each => each.name + unit), 'provisional'],
      ...days.map((day, row) => [dateOf(day), ...series.map(({ values }) => values[row]), isProvisional(day) ? 'yes' : 'no'])])
}

function legend({ title, series }) {
  // A series with the same name as the chart needs no legend entry.
  const named = series.filter(({ name }) => name !== title)
  return named.length ? h('ul', { class: 'legend' }, named.map(({ name, look, mark }) => h('li', {}, h('span', { class: `key ${mark} ${look}` }), name))) : null
}

/** A line without axes, for a tile; the tile's text gives the same figures. */
export function sparkline(values) {
  const found = finiteValues(values)
  if (found.length < 2) return null
  const [low, high] = [Math.min(...found), Math.max(...found)]
  const x = index => 2 + (index / (values.length - 1)) * 116
  const y = value => 26 - ((value - low) / (high - low || 1)) * 22
  return s('svg', { class: 'spark', viewBox: '0 0 120 30', preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    s('path', { class: 'line answered', d: line(values, x, y) }))
}
