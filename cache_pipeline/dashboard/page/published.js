// What was published: the manifest, and the immutable files that it names, each checked against its sha256.

import { parquetMetadata, parquetRead, zstd } from './vendor/parquet.js'

/** Something is not there or not as it was published; the text is for the reader. */
export class Unreadable extends Error {}

const embedded = document.getElementById('embedded')
const carried = embedded ? JSON.parse(embedded.textContent) : null

async function bytesOf(path, options) {
  if (carried) {
    if (!(path in carried)) throw new Unreadable(`${path} is not among what this file carries.`)
    return Uint8Array.from(atob(carried[path]), letter => letter.charCodeAt(0)).buffer
  }
  let response
  try {
    const asked = await globalThis.early?.[path]
    response = asked ?? await fetch(path, options)
    if (asked) delete globalThis.early[path]
  } catch {
    throw new Unreadable(`${path} cannot be fetched: check the connection, then reload.`)
  }
  if (!response.ok) throw new Unreadable(`${path} cannot be fetched (HTTP ${response.status}).`)
  return response.arrayBuffer()
}

async function jsonOf(path) {
  // The edge may answer from its copy for a minute; the browser must always ask.
  const text = new TextDecoder().decode(await bytesOf(path, { cache: 'no-cache' }))
  try {
    return JSON.parse(text)
  } catch {
    throw new Unreadable(`${path} does not parse: run cache-pipeline edge verify.`)
  }
}

/** The manifest. */
export async function readManifest() {
  const manifest = await jsonOf('manifest.json')
  if (manifest?.format !== 1 || typeof manifest.datasets !== 'object') {
    throw new Unreadable('manifest.json is of a format that this page does not know: publish the page anew.')
  }
  return manifest
}

/** Names of dimension values: `{queue_id: {id: name}}`. */
export const readLabels = () => jsonOf('labels.json').catch(() => ({}))

const hex = buffer => Array.from(new Uint8Array(buffer), byte => byte.toString(16).padStart(2, '0')).join('')

const PARSERS = {
  timestampFromMilliseconds: Number,
  timestampFromMicroseconds: value => Number(value / 1000n),
  timestampFromNanoseconds: value => Number(value / 1000000n),
}

/** The wanted columns of a file, as arrays by name. */
export async function readFile(file, columns) {
  const body = await bytesOf(file.path)
  // Only secure contexts (https, localhost, a local file) may compute digests.
  if (globalThis.crypto?.subtle && hex(await crypto.subtle.digest('SHA-256', body)) !== file.sha256) {
    throw new Unreadable(`${file.path} is not what was published: its sha256 differs. Run cache-pipeline edge verify.`)
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
  return { rows: file.rows, columns: Object.fromEntries(columns.map(name => [name, joined(found[name])])) }
}

const joined = parts => (parts.length === 1 ? parts[0] : parts.flatMap(part => Array.from(part)))
