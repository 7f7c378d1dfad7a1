-- Grants one request to one client, or returns how long to wait.
--
-- KEYS     round_robin, generation, cold_start, log and state of the organisation, then log and state of each candidate client
-- ARGV     grant id, generation the caller knows ('' at first), window, longest time in flight, slots of the lane, time to live
--          of idle state, thousandths of the organisation's limit that the lane may fill, then the weight of each candidate; all
--          times in microseconds
-- Returns  {'granted', candidate number, generation}, {'wait', microseconds, generation} or {'restore', generation}. The last
--          means that Redis has lost its data since the caller last asked, so the caller must first run restore.lua.
--
-- A log has one member per grant. Its score is the instant at which the request was answered or, until then, the latest instant
-- at which it can still arrive at the vendor. So the request of a dead sender is counted for as long as it may matter, and no
-- longer. A caller asks again with the same grant id, so that a later version may keep its place in a queue.
--
-- The requests of all clients are counted in the log of the organisation too. Its limit is known once a refusal has named it.
--
-- An empty Redis may have lost its data, and the vendor's window may be full of requests sent before. So for the length of one
-- window a client has one request in flight at a time, until the vendor itself has reported what remains. A caller that knows
-- another generation proves that data was lost: see restore.lua.

local grant, known_generation = ARGV[1], ARGV[2]
local window, max_in_flight, slots = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local idle, organisation_share = tonumber(ARGV[6]), tonumber(ARGV[7]) / 1000
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local RECHECK = 50000

-- Lua prints large numbers as 1.79e+15; a score must keep every digit.
local function integer(number)
  return string.format('%.0f', number)
end
local idle_ms = integer(math.ceil(idle / 1000))

local generation = redis.call('GET', KEYS[2])
if not generation then
  generation = grant
  redis.call('SET', KEYS[2], generation)
  redis.call('HSET', KEYS[3], 'since', integer(now), 'created_at', integer(now))
  redis.call('PEXPIRE', KEYS[3], integer(math.ceil(window / 1000)))
end
-- It never expires: without it, a quiet day would look like a loss of all data.
redis.call('PERSIST', KEYS[2])
if known_generation ~= '' and known_generation ~= generation then
  local created_at = redis.call('HGET', KEYS[3], 'created_at')
  if created_at then
    redis.call('HSET', KEYS[3], 'lost_until', integer(tonumber(created_at) + window))
  end
  return {'restore', generation}
end

local organisation_log, organisation_state = KEYS[4], KEYS[5]
redis.call('ZREMRANGEBYSCORE', organisation_log, '-inf', integer(now - window - max_in_flight))
local organisation = redis.call('HMGET', organisation_state, 'limit', 'throttled_until')
local organisation_free_at = tonumber(organisation[2] or 0)
if organisation[1] then
  local counted_from = '(' .. integer(now - window)
  local organisation_slots = math.max(1, math.floor(tonumber(organisation[1]) * organisation_share))
  local excess = redis.call('ZCOUNT', organisation_log, counted_from, '+inf') - organisation_slots
  if excess >= 0 then
    local blocking = redis.call('ZRANGEBYSCORE', organisation_log, counted_from, '+inf', 'WITHSCORES', 'LIMIT', excess, 1)[2]
    organisation_free_at = math.max(organisation_free_at, math.min(tonumber(blocking), now) + window)
  end
end

local cold_since = tonumber(redis.call('HGET', KEYS[3], 'since') or nil)
local open, wait = {}, nil
for candidate = 1, (#KEYS - 5) / 2 do
  local log, state = KEYS[candidate * 2 + 4], KEYS[candidate * 2 + 5]
  redis.call('ZREMRANGEBYSCORE', log, '-inf', integer(now - window - max_in_flight))
  local stored = redis.call('HMGET', state, 'throttled_until', 'foreign', 'foreign_until', 'remaining_reported_at')
  local throttled_until = tonumber(stored[1] or 0)
  local foreign, foreign_until = tonumber(stored[2] or 0), tonumber(stored[3] or 0)
  if foreign_until <= now then
    foreign = 0
  end

  local counted_from = '(' .. integer(now - window)
  local excess = redis.call('ZCOUNT', log, counted_from, '+inf') + foreign - slots
  local free_at = now
  if excess >= 0 then
    free_at = now + window
    local blocking = redis.call('ZRANGEBYSCORE', log, counted_from, '+inf', 'WITHSCORES', 'LIMIT', excess, 1)[2]
    if blocking then
      free_at = math.min(tonumber(blocking), now) + window
    end
    if foreign > 0 then
      free_at = math.min(free_at, foreign_until)
    end
  end
  free_at = math.max(free_at, throttled_until, organisation_free_at)
  if cold_since and tonumber(stored[4] or 0) < cold_since and redis.call('ZCOUNT', log, '(' .. integer(now), '+inf') > 0 then
    -- A request is in flight, and it is not known when its answer comes.
    free_at = math.max(free_at, now + RECHECK)
  end

  if free_at <= now then
    table.insert(open, candidate)
  elseif not wait or free_at - now < wait then
    wait = free_at - now
  end
end

if #open == 0 then
  return {'wait', integer(math.ceil(wait)), generation}
end

-- Smooth weighted round-robin: every open client gains its weight; the one with the most credit is chosen and pays the sum of all
-- gains. A client that is the only candidate gains and pays the same, so it leaves the round-robin as it was.
local gained, chosen, most_credit = 0, nil, nil
for _, candidate in ipairs(open) do
  local weight = tonumber(ARGV[7 + candidate])
  local credit = redis.call('HINCRBY', KEYS[1], KEYS[candidate * 2 + 4], weight)
  gained = gained + weight
  if not most_credit or credit > most_credit then
    chosen, most_credit = candidate, credit
  end
end
redis.call('HINCRBY', KEYS[1], KEYS[chosen * 2 + 4], -gained)
redis.call('PEXPIRE', KEYS[1], idle_ms)

local log, state = KEYS[chosen * 2 + 4], KEYS[chosen * 2 + 5]
for _, counted in ipairs({log, organisation_log}) do
  redis.call('ZADD', counted, integer(now + max_in_flight), grant)
  redis.call('PEXPIRE', counted, integer(math.ceil((window + max_in_flight) / 500)))
end
redis.call('HINCRBY', state, 'granted', 1)
redis.call('PEXPIRE', state, idle_ms)
return {'granted', chosen, generation}
