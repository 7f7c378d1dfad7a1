// Reads the manifest and the immutable files that it lists, each checked against its sha256.

import { parquetMetadata, parquetRead, zstd } from './vendor/parquet.js'

/** A file is missing or altered; the message is shown to the reader. */
export class ReadError extends Error {}

const embedded = document.getElementById('embedded')
const embeddedFiles = embedded ? JSON.parse(embedded.textContent) : null

async function fetchBytes(path, options) {
  if (embeddedFiles) {
    if (!(path in embeddedFiles)) throw new ReadError(`${path} is not embedded in this file.`)
    return Uint8Array.from(atob(embeddedFiles[path]), letter => letter.charCodeAt(0)).buffer
  }
  let response
  try {
    const prefetched = await globalThis.early?.[path]
    response = prefetched ?? await fetch(path, options)
    if (prefetched) delete globalThis.early[path]
  } catch {
    throw new ReadError(`${path} cannot be fetched: check the connection, then reload.`)
  }
  if (!response.ok) throw new ReadError(`${path} cannot be fetched (HTTP ${response.status}).`)
  return response.arrayBuffer()
}

async function fetchJson(path) {
  // The CDN may serve its copy for a minute; the browser itself must always revalidate.
  const text = new TextDecoder().decode(await fetchBytes(path, { cache: 'no-cache' }))
  try {
    return JSON.parse(text)
  } catch {
    throw new ReadError(`${path} does not parse: run cache-pipeline edge verify.`)
  }
}

/** Read the manifest. */
export async function readManifest() {
  const manifest = await fetchJson('manifest.json')
  if (manifest?.format !== 1 || typeof manifest.datasets !== 'object') {
    throw new ReadError('manifest.json has a format that this page does not support: publish the page again.')
  }
  return manifest
}

/** Read the names of ids: `{queue_id: {id: name}}`. */
export const readNames = () => fetchJson('names.json').catch(() => ({}))

const hex = buffer => Array.from(new Uint8Array(buffer), byte => byte.toString(16).padStart(2, '0')).join('')

const PARSERS = {
  timestampFromMilliseconds: Number,
  timestampFromMicroseconds: value => Number(value / 1000n),
  timestampFromNanoseconds: value => Number(value / 1000000n),
}

/** Read the given columns of a file, as arrays by name. */
export async function readFile(file, columns) {
  const body = await fetchBytes(file.path)
  // Only secure contexts (https, localhost, a local file) may compute digests.
  if (globalThis.crypto?.subtle && hex(await crypto.subtle.digest('SHA-256', body)) !== file.sha256) {
    throw new ReadError(`${file.path} was altered: its sha256 differs from the manifest. Run cache-pipeline edge verify.`)
  }
  const found = Object.fromEntries(columns.map(column => [column, []]))
  const compressors = { ZSTD: (input, length) => zstd(input, new Uint8Array(length)) }
  await parquetRead({
    file: body,
    metadata: parquetMetadata(body),
    columns,
    compressors,
    parsers: PARSERS,
    onChunk: ({ columnName, columnData }) => { found[columnName].push(columnData) },
  })
  return { rows: file.rows, columns: Object.fromEntries(columns.map(name => [name, concatenate(found[name])])) }
}

const concatenate = parts => (parts.length === 1 ? parts[0] : parts.flatMap(part => Array.from(part)))
