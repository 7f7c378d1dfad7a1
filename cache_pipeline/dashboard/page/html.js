// Element builders. Text is always inserted as text, so that no published value can become markup.

const SVG = 'http://www.w3.org/2000/svg'

function fillElement(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value)
    else element.setAttribute(name, value === true ? '' : value)
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined))
  return element
}

/** An HTML element; `on…` attributes are listeners. */
export const h = (tag, attributes = {}, ...children) => fillElement(document.createElement(tag), attributes, children)

/** An SVG element. */
export const s = (tag, attributes = {}, ...children) => fillElement(document.createElementNS(SVG, tag), attributes, children)

export const byId = id => document.getElementById(id)

/** A table of texts; the first column is each row's header. */
export function textTable(caption, heads, rows) {
  return h('table', {},
    h('caption', {}, caption),
    h('thead', {}, h('tr', {}, heads.map(head => h('th', { scope: 'col' }, head)))),
    h('tbody', {}, rows.map(([first, ...rest]) =>
      h('tr', {}, h('th', { scope: 'row' }, first), rest.map(text => h('td', {}, text))))))
}
