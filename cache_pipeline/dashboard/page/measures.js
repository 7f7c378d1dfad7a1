// What an executive asks for, and the published columns that it can be worked out from. Platforms name their columns
// differently; the first way whose columns are all there is taken. Ratios are of sums, never means of ratios.

const sum = (...columns) => ({ over: columns })
const ratio = (over, under) => ({ over, under })

/**
 * `kind` is how it is written, `good` which way is better (1 up, -1 down, 0 neither), `ways` the columns that add up
 * to it, and `says` how it is worked out, for the foot of the page.
 */
const MEASURES = [
  { key: 'offered', name: 'Offered', kind: 'count', good: 0, ways: [sum('offered'), sum('n_offered')] },
  { key: 'answered', name: 'Answered', kind: 'count', good: 0, ways: [sum('answered'), sum('t_answered_count')] },
  { key: 'handled', name: 'Handled', kind: 'count', good: 0, ways: [sum('t_handle_count')], unless: 'answered' },
  { key: 'abandoned', name: 'Abandoned', kind: 'count', good: -1, hidden: true, ways: [sum('abandoned'), sum('t_abandon_count')] },
  {
    key: 'abandonRate', name: 'Abandoned', kind: 'share', good: -1, says: 'Abandoned: share of offered.',
    ways: [ratio(['abandoned'], ['offered']), ratio(['t_abandon_count'], ['n_offered'])],
  },
  {
    key: 'serviceLevel', name: 'Service level', kind: 'share', good: 1,
    says: 'Service level: answered within target, as a share of answered and abandoned.',
    ways: [ratio(['o_service_level_numerator'], ['o_service_level_denominator']), ratio(['answered_within_target'], ['answered', 'abandoned'])],
  },
  {
    key: 'handle', name: 'Average handle', kind: 'duration', good: 0, says: 'Average handle: talk, hold and after-call work per contact handled.',
    ways: [ratio(['t_handle_sum'], ['t_handle_count']), ratio(['handle_ms'], ['answered'])],
  },
  {
    key: 'wait', name: 'Average wait', kind: 'duration', good: -1, says: 'Average wait: until answered, per contact answered.',
    ways: [ratio(['t_answered_sum'], ['t_answered_count']), ratio(['wait_ms'], ['answered'])],
  },
  {
    key: 'transferRate', name: 'Transferred', kind: 'share', good: -1, says: 'Transferred: share of offered.',
    ways: [ratio(['n_transferred'], ['n_offered']), ratio(['transferred'], ['offered'])],
  },
  {
    key: 'afterCall', name: 'After-call work', kind: 'duration', good: 0, says: 'After-call work: per contact handled.',
    ways: [ratio(['t_acw_sum'], ['t_acw_count']), ratio(['acw_ms'], ['answered'])],
  },
]

/** The measures that columns allow, each with the way that is taken. */
export function measuresOf(columns) {
  const there = new Set(columns)
  const found = MEASURES.flatMap(measure => {
    const way = measure.ways.find(({ over, under = [] }) => [...over, ...under].every(column => there.has(column)))
    return way ? [{ ...measure, way }] : []
  })
  const keys = new Set(found.map(({ key }) => key))
  return found.filter(({ unless }) => !keys.has(unless))
}

/** The columns that some measures need. */
export const columnsOf = measures => [...new Set(measures.flatMap(({ way }) => [...way.over, ...(way.under ?? [])]))]

/** A measure's value from a row of sums (`null` where nothing is known), or null. */
export function valueOf(measure, sums) {
  if (!sums) return null
  const total = columns => columns.reduce((all, column) => all + (sums[column] ?? NaN), 0)
  const over = total(measure.way.over)
  if (!measure.way.under) return Number.isNaN(over) ? null : over
  const value = over / total(measure.way.under)
  return Number.isFinite(value) ? value : null
}
