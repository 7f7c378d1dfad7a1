// Swagger UI over /openapi.json, with what it lacks for keyboards and screen readers.

const dark = matchMedia('(prefers-color-scheme: dark)')
const setScheme = () => document.documentElement.classList.toggle('dark-mode', dark.matches)
dark.addEventListener('change', setScheme)
setScheme()

const accessible = {
  wrapComponents: {
    // A link inside the button that opens a request is a second stop of the Tab key for the same action.
    DeepLink: (_Original, { React }) => ({ text }) => React.createElement('span', null, text),
    // The groups of requests are headings of the third level.
    InfoContainer: (Original, { React }) => props =>
      React.createElement('div', null, React.createElement(Original, props), React.createElement('h2', { className: 'requests' }, 'Requests')),
  },
}

const requestOf = element => element.closest('.opblock')?.querySelector('.opblock-summary-control')?.innerText.split('\n').slice(0, 2).join(' ') ?? ''

// What Swagger UI draws without a name, and the name of each.
const names = {
  '.copy-to-clipboard > button': () => 'Copy',
  '.close-modal': () => 'Close',
  'tr[data-param-name] select': element => element.closest('tr').dataset.paramName,
  'textarea.body-param__text': element => `Body of ${requestOf(element)}`,
  'table.responses-table[role=region]': element =>
    `${element.classList.contains('live-responses-table') ? 'Answer to' : 'Responses of'} ${requestOf(element)}`,
}

function complete() {
  for (const [selector, name] of Object.entries(names))
    for (const element of document.querySelectorAll(`${selector}:not([aria-label])`)) element.setAttribute('aria-label', name(element))
  for (const element of document.querySelectorAll('.modal-ux:not([role])')) {
    element.setAttribute('role', 'dialog')
    element.setAttribute('aria-modal', 'true')
    element.setAttribute('aria-labelledby', 'authorizations')
    element.querySelector('h3').id = 'authorizations'
  }
  // Examples that are wider than the page are scrolled by keyboard too.
  for (const element of document.querySelectorAll('pre:not([tabindex])')) element.tabIndex = 0
}
new MutationObserver(complete).observe(document.querySelector('main'), { childList: true, subtree: true })

window.SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#requests',
  deepLinking: true,
  showExtensions: true,
  showCommonExtensions: true,
  plugins: [accessible],
})
