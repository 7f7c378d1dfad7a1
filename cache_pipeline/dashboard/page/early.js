// Requests what the page needs first while its modules are still loading.
globalThis.early = Object.fromEntries(['manifest.json', 'names.json'].map(path => [path, fetch(path, { cache: 'no-cache' }).catch(() => null)]))
