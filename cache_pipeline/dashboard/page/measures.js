// The measures on the page and the published columns they are computed from. Platforms name their columns differently;
// the first formula whose columns are all available is used. Ratios are ratios of sums, never means of ratios.

const sum = (...columns) => ({ over: columns })
const ratio = (over, under) => ({ over, under })

/**
 * `kind` decides the number format, `good` the direction that is better (1 up, -1 down, 0 neither), `formulas` the columns
 * to sum, and `definition` is the explanation in the page's footer.
 */
const MEASURES = [
  { key: 'offered', name: 'Offered', kind: 'count', good: 0, formulas: [sum('offered'), sum('n_offered')] },
  { key: 'answered', name: 'Answered', kind: 'count', good: 0, formulas: [sum('answered'), sum('t_answered_count')] },
  { key: 'handled', name: 'Handled', kind: 'count', good: 0, formulas: [sum('t_handle_count')], unless: 'answered' },
  { key: 'abandoned', name: 'Abandoned', kind: 'count', good: -1, hidden: true, formulas: [sum('abandoned'), sum('t_abandon_count')] },
  {
    key: 'abandonRate', name: 'Abandoned', kind: 'share', good: -1, definition: 'Abandoned: share of offered.',
    formulas: [ratio(['abandoned'], ['offered']), ratio(['t_abandon_count'], ['n_offered'])],
  },
  {
    key: 'serviceLevel', name: 'Service level', kind: 'share', good: 1,
    definition: 'Service level: answered within target, as a share of answered and abandoned.',
    formulas: [ratio(['o_service_level_numerator'], ['o_service_level_denominator']), ratio(['answered_within_target'], ['answered', 'abandoned'])],
  },
  {
    key: 'handle', name: 'Average handle', kind: 'duration', good: 0, definition: 'Average handle: talk, hold and after-call work per contact handled.',
    formulas: [ratio(['t_handle_sum'], ['t_handle_count']), ratio(['handle_ms'], ['answered'])],
  },
  {
    key: 'wait', name: 'Average wait', kind: 'duration', good: -1, definition: 'Average wait: until answered, per contact answered.',
    formulas: [ratio(['t_answered_sum'], ['t_answered_count']), ratio(['wait_ms'], ['answered'])],
  },
  {
    key: 'transferRate', name: 'Transferred', kind: 'share', good: -1, definition: 'Transferred: share of offered.',
    formulas: [ratio(['n_transferred'], ['n_offered']), ratio(['transferred'], ['offered'])],
  },
  {
    key: 'afterCall', name: 'After-call work', kind: 'duration', good: 0, definition: 'After-call work: per contact handled.',
    formulas: [ratio(['t_acw_sum'], ['t_acw_count']), ratio(['acw_ms'], ['answered'])],
  },
]

/** The measures that the columns allow, each with the formula that is used. */
export function availableMeasures(columns) {
  const available = new Set(columns)
  const found = MEASURES.flatMap(measure => {
    const formula = measure.formulas.find(({ over, under = [] }) => [...over, ...under].every(column => available.has(column)))
    return formula ? [{ ...measure, formula }] : []
  })
  const keys = new Set(found.map(({ key }) => key))
  return found.filter(({ unless }) => !keys.has(unless))
}

/** The columns that these measures need. */
export const requiredColumns = measures => [...new Set(measures.flatMap(({ formula }) => [...formula.over, ...(formula.under ?? [])]))]

/** A measure's value from a row of sums (`null` where nothing is known), or null. */
export function valueOf(measure, sums) {
  if (!sums) return null
  const total = columns => columns.reduce((all, column) => all + (sums[column] ?? NaN), 0)
  const over = total(measure.formula.over)
  if (!measure.formula.under) return Number.isNaN(over) ? null : over
  const value = over / total(measure.formula.under)
  return Number.isFinite(value) ? value : null
}
