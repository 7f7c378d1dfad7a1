// The page's entry point: reads the published data, keeps the reader's choices in the URL, and draws everything.

import { localClock, weekday } from './calendar.js'
import { dayChart } from './charts.js'
import { save } from './download.js'
import { publishedDays, filesBetween, sumRows } from './figures.js'
import { WEEKDAYS, dayText, dimensionText, longDay, formatInstant, shortDay } from './format.js'
import { groupRows, groupTable, sortRows } from './groups.js'
import { hourMap, spanText, weekMap } from './heatmap.js'
import { byId, h } from './html.js'
import { requiredColumns, availableMeasures, valueOf } from './measures.js'
import { readFile, readNames, readManifest } from './published.js'
import { tile } from './tiles.js'

const HOUR = 3_600_000
const STALE_AFTER = 26 * HOUR
const PERIODS = [
  { days: 1, name: 'Last day', against: 'the same weekday' },
  { days: 7, name: '7 days', against: 'the week before' },
  { days: 28, name: '28 days', against: 'the 4 weeks before' },
  { days: 91, name: '13 weeks', against: 'the 13 weeks before' },
  { days: 364, name: '52 weeks', against: 'the 52 weeks before' },
]
const TILES = 6

const choice = new URLSearchParams(location.hash.slice(1))
const state = { heat: null, groups: { key: 'offered', descending: true, text: '' }, dimension: null }
let manifest
let names = {}
let turn = 0
const read = new Map()

function remember(name, value) {
  choice.set(name, value)
  history.replaceState(null, '', `#${choice}`)
}

const title = name => name.replaceAll('_', ' ').replace(/^./, letter => letter.toUpperCase())

/** The data set with the most measures; between equals the one with the coarser granularity, which is smaller. */
function defaultDataset() {
  const scored = Object.entries(manifest.datasets).map(([name, dataset]) =>
    ({ name, score: Math.min(availableMeasures(dataset).filter(({ hidden }) => !hidden).length, TILES), day: /^P\d/.test(dataset.granularity) }))
  return scored.sort((a, b) => b.score - a.score || b.day - a.day || (a.name < b.name ? -1 : 1))[0]?.name
}

function cachedRows(file, columns) {
  const key = `${file.path} ${columns}`
  if (!read.has(key)) {
    read.set(key, readFile(file, columns))
    read.get(key).catch(() => read.delete(key))
  }
  return read.get(key)
}

function banner(...children) {
  byId('banner').replaceChildren(...children)
}

function showError(error) {
  const notice = h('p', { class: 'notice error', role: 'alert' }, h('strong', {}, 'These figures cannot be shown. '), error.message)
  banner(notice)
  byId('figures').hidden = true
}

function freshness(dataset, days) {
  const zone = dataset.time_zone
  const parts = []
  const published = Date.parse(manifest.generated_at)
  const through = dataset.complete_through ? Date.parse(dataset.complete_through) : null
  const age = Date.now() - (through ?? published)
  const lag = /^P\d/.test(dataset.granularity) ? 24 * HOUR : 0
  if (Date.now() - published > STALE_AFTER || age > STALE_AFTER + lag) {
    const since = Date.now() - published > STALE_AFTER ? `Nothing has been published since ${formatInstant(published, zone)}.` : `The data ends ${formatInstant(through ?? published, zone)}.`
    parts.push(h('p', { class: 'notice stale' }, h('strong', {}, 'STALE '), since, ' Newer figures may exist that are not shown here.'))
  }
  if (published > Date.now() + 5 * 60_000) {
    parts.push(h('p', { class: 'notice stale' }, 'The publisher’s clock runs ahead of this one: ages shown here may be wrong.'))
  }
  const zoneName = h('span', { class: 'zone' }, ` ${zone.replaceAll('_', ' ')}`)
  const hasProvisional = through === null || dataset.provisional_from
  parts.push(h('p', { class: 'fresh' },
    through === null
      ? h('strong', {}, 'Nothing is complete yet: all figures are provisional.')
      : [h('strong', {}, `Complete until ${formatInstant(through, zone)}`), zoneName, '. '],
    through !== null && dataset.provisional_from
      ? `Figures from ${formatInstant(Date.parse(dataset.provisional_from), zone)} on are provisional and may still change${days.newest > days.last ? ' (hatched)' : ''}. ` : '',
    `Published ${formatInstant(published, zone)}.`))
  if (hasProvisional) {
    parts.push(h('details', { class: 'explained' }, h('summary', {}, 'What does provisional mean?'),
      h('p', {}, 'The contact centre’s system is still adding to these hours, or their figures wait for a second look. They are fetched again ' +
        'and become final by themselves. Comparisons use final days only.')))
  }
  return parts
}

function period(days) {
  const wanted = Number(choice.get('days')) || 7
  const found = PERIODS.find(each => each.days === wanted) ?? PERIODS[1]
  const span = found.days === 1 ? 7 : found.days
  return {
    ...found,
    first: days.last - found.days + 1, last: days.last,
    beforeFirst: days.last - found.days + 1 - span, beforeLast: days.last - span,
    chartFirst: found.days === 1 ? days.last - 13 : days.last - found.days + 1,
  }
}

const identity = value => value ?? ''

/** The ids that the reader chose on the page's main dimension; null for all. */
function chosenIds(dimension) {
  const text = choice.get('only')
  if (!dimension || text === null) return null
  const [column, ...ids] = text.split(',').map(decodeURIComponent)
  return column === dimension ? new Set(ids) : null
}

/** The list in which the reader chooses queues; it stays open while boxes are ticked. */
function showChoice(dimension, ids, chosen) {
  const box = byId('only')
  box.hidden = dimension === null || ids.length < 2
  if (box.hidden) return
  const noun = dimensionText(dimension)
  const namesOfIds = names[dimension] ?? {}
  const nameOf = id => namesOfIds[id] ?? (id === '' ? 'without a value' : id)
  byId('only-summary').textContent = chosen ? `${chosen.size} of ${ids.length} ${noun}s` : `All ${ids.length} ${noun}s`
  const redraw = next => {
    if (next === null || next.size === ids.length || next.size === 0) choice.delete('only')
    else choice.set('only', [dimension, ...next].map(encodeURIComponent).join(','))
    history.replaceState(null, '', `#${choice}`)
    show().catch(showError)
  }
  const focused = document.activeElement?.dataset?.id
  byId('only-list').replaceChildren(
    h('button', { type: 'button', disabled: !chosen, onclick: () => redraw(null) }, `All ${noun}s`),
    ...[...ids].sort((a, b) => nameOf(a).localeCompare(nameOf(b))).map(id => h('label', {},
      h('input', { type: 'checkbox', 'data-id': id, checked: chosen?.has(id) ?? false, onchange: event => {
        const next = new Set(chosen ?? [])
        if (event.target.checked) next.add(id)
        else next.delete(id)
        redraw(next)
      } }), nameOf(id))))
  if (focused !== undefined) [...box.querySelectorAll('input')].find(input => input.dataset.id === focused)?.focus()
}

const range = (first, last) => Array.from({ length: Math.max(0, last - first + 1) }, (_, place) => first + place)

async function show() {
  const ownTurn = ++turn
  const name = byId('dataset').value
  const dataset = manifest.datasets[name]
  const clock = localClock(dataset.time_zone)
  const days = publishedDays(dataset, clock)
  document.title = `Contact centre: ${title(name).toLowerCase()}`
  byId('description').textContent = dataset.description
  banner(...freshness(dataset, days))
  if (days.last === null) return showError(new Error('The data set has no published day yet: run its backfill.'))
  const measures = availableMeasures(dataset)
  if (!measures.length) return showError(new Error(`The data set has no measure: declare measures of its columns (${dataset.columns.join(', ')}), and publish it again.`))
  const dimensions = dataset.columns.filter(column => (dataset.dimensions ?? []).includes(column))
  const dimension = dimensions.includes(state.dimension) ? state.dimension : dimensions.find(column => column.startsWith('queue')) ?? dimensions[0] ?? null
  const spans = period(days)
  const columns = ['interval_start', ...requiredColumns(measures), ...dimensions]
  const earliest = Math.min(spans.beforeFirst, spans.chartFirst, days.last - 7)
  const files = filesBetween(dataset, clock, earliest, days.newest)
  document.body.classList.add('busy')
  const decoded = await Promise.all(files.map(file => cachedRows(file, columns)))
  if (ownTurn !== turn) return
  document.body.classList.remove('busy')
  const ids = dimension ? [...new Set(decoded.flatMap(({ columns: table }) => table[dimension].map(identity)))] : []
  const chosen = chosenIds(dimension)
  const summing = {
    zone: dataset.time_zone, columns: requiredColumns(measures), groupBy: dimension,
    keep: chosen && ((table, row) => chosen.has(identity(table[dimension][row]))),
  }
  const within = (first, last) => sumRows(decoded, { ...summing, first, last })
  const view = {
    name, dataset, days, measures, dimensions, dimension, spans,
    now: within(spans.first, spans.last),
    before: within(spans.beforeFirst, spans.beforeLast),
    all: within(earliest, days.newest),
  }
  showChoice(dimension, ids, chosen)
  showTiles(view)
  showCharts(view)
  showHeat(view)
  showGroups(view)
  byId('definitions').textContent = measures.map(({ definition }) => definition).filter(Boolean).join(' ')
  byId('source').replaceChildren(`Times are ${dataset.time_zone.replaceAll('_', ' ')}. `, h('a', { href: 'manifest.json' }, 'The data behind this page'), ' is Parquet, free to read with any tool.')
  byId('figures').hidden = false
  document.documentElement.dataset.ready = name
  performance.mark('figures')
}

const visibleMeasures = measures => measures.filter(({ hidden }) => !hidden)

/** Whether every day of a period was published, so that it can be compared with another. */
const isFullyPublished = ({ days }, first, last) => range(first, last).every(day => days.published.has(day))

/** Which days of the period before are missing, for the reader; null where none is. */
function missingBefore(view) {
  const { spans, days } = view
  if (isFullyPublished(view, spans.beforeFirst, spans.beforeLast)) return null
  if (days.first > spans.beforeFirst) return `the figures begin on ${longDay(days.first)}`
  const missing = range(spans.beforeFirst, spans.beforeLast).filter(day => !days.published.has(day))
  return missing.length === 1 ? `${longDay(missing[0])} is not published` : `${missing.length} days of ${spans.against} are not published`
}

function showTiles(view) {
  const { now, before, all, spans, days } = view
  const missing = missingBefore(view)
  const comparable = missing === null
  const weekdayName = WEEKDAYS[weekday(days.last)]
  byId('glance').replaceChildren(
    h('strong', {}, spans.days === 1 ? longDay(spans.last) : `${shortDay(spans.first)} – ${longDay(spans.last)}`),
    comparable ? ` against ${spans.against}; ${shortDay(days.last)} against the ${weekdayName} before` : '')
  const trend = range(spans.chartFirst, spans.last)
  byId('tiles').replaceChildren(...visibleMeasures(view.measures).slice(0, TILES).map(measure => tile({
    measure,
    now: valueOf(measure, now.total),
    before: comparable ? valueOf(measure, before.total) : null,
    missing,
    against: spans.against,
    day: valueOf(measure, all.days.get(days.last)),
    dayName: dayText(days.last).replace(/ \S+$/, ''),
    sameDay: valueOf(measure, all.days.get(days.last - 7)),
    weekdayName,
    trend: trend.map(day => valueOf(measure, all.days.get(day))),
  })))
}

function showCharts(view) {
  const { all, spans, days, measures } = view
  const shown = range(Math.max(spans.chartFirst, days.first), days.newest)
  const shift = spans.days === 1 ? 7 : spans.days
  const values = (measure, by = 0) => shown.map(day => valueOf(measure, all.days.get(day - by)))
  const of = key => measures.find(measure => measure.key === key)
  const compared = shown.some(day => all.days.has(day - shift))
  const earlierSeries = measure => (compared ? [{ name: shift === 7 ? 'Week before' : 'Period before', mark: 'ghost', look: 'ghost', values: values(measure, shift) }] : [])
  const base = { name: view.name, days: shown, isProvisional: days.isProvisional }
  const charts = []
  const [offered, answered, abandoned] = [of('offered'), of('answered'), of('abandoned')]
  if (answered && abandoned) {
    charts.push({ ...base, title: 'Contacts', kind: 'count', size: 'tall', series: [
      { name: 'Answered', mark: 'bar', look: 'answered', values: values(answered) },
      { name: 'Abandoned', mark: 'bar', look: 'abandoned', values: values(abandoned) },
      ...(offered && compared ? [{ ...earlierSeries(offered)[0], name: `Offered, ${earlierSeries(offered)[0].name.toLowerCase()}` }] : []),
    ] })
  } else {
    const measure = offered ?? visibleMeasures(measures)[0]
    charts.push({ ...base, title: measure.name, kind: measure.kind, size: 'tall', series: [
      { name: measure.name, mark: measure.kind === 'count' ? 'bar' : 'line', look: 'answered', values: values(measure) }, ...earlierSeries(measure)] })
  }
  for (const measure of visibleMeasures(measures).filter(({ kind }) => kind !== 'count').slice(0, 4)) {
    charts.push({ ...base, title: measure.name, kind: measure.kind, size: 'low', series: [
      { name: measure.name, mark: 'line', look: measure.good < 0 && measure.kind === 'share' ? 'abandoned' : 'answered', values: values(measure) }, ...earlierSeries(measure)] })
  }
  byId('charts').replaceChildren(...charts.map(dayChart))
}

function showHeat(view) {
  const measures = visibleMeasures(view.measures)
  const picker = byId('heat-measure')
  state.heat = measures.some(({ key }) => key === state.heat) ? state.heat : measures[0].key
  picker.replaceChildren(...measures.map(({ key, name }) => h('option', { value: key, selected: key === state.heat }, name)))
  const draw = () => {
    const measure = measures.find(({ key }) => key === state.heat)
    const byHour = !/^P\d/.test(view.dataset.granularity)
    byId('hours-heading').textContent = byHour ? 'By hour' : 'By week'
    const days = byHour ? range(view.spans.first, view.spans.last) : range(Math.max(view.spans.chartFirst, view.days.first), view.days.newest)
    const text = view.spans.days === 1 ? longDay(view.spans.last) : `${shortDay(view.spans.first)} – ${shortDay(view.spans.last)}`
    byId('heat').replaceChildren(...(byHour ? hourMap(view.now, measure, days, text) : weekMap(view.all, measure, days)))
  }
  picker.onchange = () => {
    state.heat = picker.value
    draw()
  }
  draw()
}

function showGroups(view) {
  const { dimension, dimensions } = view
  byId('groups').hidden = dimension === null
  if (dimension === null) return
  const heading = title(dimensionText(dimension))
  byId('groups-heading').textContent = `By ${dimensionText(dimension)}`
  const picker = byId('dimension')
  picker.replaceChildren(...dimensions.map(column => h('option', { value: column, selected: column === dimension }, dimensionText(column))))
  picker.parentElement.hidden = dimensions.length < 2
  picker.onchange = () => {
    state.dimension = picker.value
    show().catch(showError)
  }
  const measures = visibleMeasures(view.measures)
  const comparable = isFullyPublished(view, view.spans.beforeFirst, view.spans.beforeLast)
  const rows = groupRows(view.now.groups, comparable ? view.before.groups : new Map(), measures, names[dimension] ?? {})
  if (state.groups.key !== 'name' && !measures.some(({ key }) => key === state.groups.key)) state.groups.key = measures[0].key
  const draw = () => {
    const focused = document.activeElement?.dataset?.key
    byId('table').replaceChildren(...groupTable({ rows, measures, state: state.groups, heading, against: view.spans.against, resort }))
    if (focused) byId('table').querySelector(`button[data-key="${focused}"]`)?.focus()
  }
  const resort = key => {
    state.groups.descending = state.groups.key === key ? !state.groups.descending : key !== 'name'
    state.groups.key = key
    draw()
  }
  byId('filter').oninput = event => {
    state.groups.text = event.target.value
    draw()
  }
  byId('csv-groups').onclick = () => save(
    `${view.name}_${dimension}_${spanText(range(view.spans.first, view.spans.last))}.csv`,
    [[dimension, 'name', ...measures.map(({ key, kind }) => (kind === 'duration' ? `${key}_ms` : key))],
      ...sortRows(rows, state.groups).map(({ id, name, values }) => [id, name, ...measures.map(({ key }) => values[key])])])
  draw()
}

async function start() {
  const [found, published] = await Promise.all([readManifest(), readNames()])
  manifest = found
  names = published
  const sets = Object.keys(manifest.datasets).sort()
  if (!sets.length) throw new Error('Nothing has been published yet: materialise an edge asset, or run cache-pipeline edge publish.')
  const chosen = sets.includes(choice.get('dataset')) ? choice.get('dataset') : defaultDataset()
  byId('dataset').replaceChildren(...sets.map(name => h('option', { value: name, selected: name === chosen }, title(name))))
  const days = Number(choice.get('days')) || 7
  byId('period').replaceChildren(...PERIODS.map(each => h('option', { value: each.days, selected: each.days === days }, each.name)))
  for (const name of ['dataset', 'period']) {
    byId(name).addEventListener('change', event => {
      remember(name === 'period' ? 'days' : name, event.target.value)
      show().catch(showError)
    })
  }
  byId('choices').addEventListener('submit', event => event.preventDefault())
  await show()
}

start().catch(showError)
