// The measures of a data set, as its manifest defines them: a sum of columns, or one divided by another. They are computed from
// sums over the rows that are shown, never from other measures.

/** Measures that are shown by another one: as its share, or because it counts nearly the same. */
const SHOWN_BY = { abandoned: 'abandon_rate', handled: 'answered' }

/**
 * The measures of a data set in the order in which they are shown: `kind` decides the number format, `good` is the direction that
 * is better (1 up, -1 down, 0 neither), and `definition` is the explanation in the page's footer.
 */
export function availableMeasures({ measures = [] }) {
  const names = new Set(measures.map(({ name }) => name))
  return measures.map(({ name, label, kind, better, description, over, under }) => ({
    key: name,
    name: label,
    kind: kind === 'number' ? 'count' : kind,
    good: better,
    hidden: names.has(SHOWN_BY[name]),
    definition: under && Object.keys(under).length && description ? `${label}: ${description}.` : '',
    over,
    under,
  }))
}

/** The columns that these measures need. */
export const requiredColumns = measures => [...new Set(measures.flatMap(({ over, under }) => [...Object.keys(over), ...Object.keys(under)]))]

const total = (terms, sums) => Object.entries(terms).reduce((all, [column, factor]) => all + factor * (sums[column] ?? NaN), 0)

/** A measure's value from a row of sums (`null` where nothing is known), or null. */
export function valueOf(measure, sums) {
  if (!sums) return null
  const over = total(measure.over, sums)
  const value = Object.keys(measure.under).length ? over / total(measure.under, sums) : over
  return Number.isFinite(value) ? value : null
}
