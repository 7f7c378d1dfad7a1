-- Grants one request to one client, or returns how long to wait.
--
-- KEYS     round_robin, generation, cold_start, limits, log and state of the organisation, of the endpoint and of the jobs, turns
--          and waiting of the lane, then log and state of each candidate client
-- ARGV     grant id, generation the caller knows ('' at first), window, longest time in flight, slots of the lane, time to live
--          of idle state, thousandths of a limit that the lane may fill, reserve of a client's limit, declared limit of the
--          organisation and of running jobs (0 for none), how long a job is counted (0 if the request starts none), id of the
--          waiter, callers that the request is for, '1' if the waiter has more requests, then the weight of each candidate; all
--          times in microseconds
-- Returns  {'granted', candidate number, generation}, {'wait', microseconds, generation} or {'restore', generation}. The last
--          means that Redis has lost its data since the caller last asked, so the caller must first run restore.lua.
--
-- A log has one member per grant. Its score is the instant at which the request was answered or, until then, the latest instant
-- at which it can still arrive at the vendor. So the request of a dead sender is counted for as long as it may matter, and no
-- longer. A waiter asks again with the same grant id.
--
-- The callers of a lane are served in turn (start-time fair queuing). `turns` has the number of each caller's next turn: one more
-- than that of its last grant, and never less than the earliest of those that wait: what a caller did not ask for is not saved for
-- it, but what others were granted while it yielded is. `waiting` has, by waiter, from when on it could be granted a request, and
-- its callers. A waiter yields while another one that could be granted a request now has an earlier turn.
-- A request for several callers goes by the earliest turn of them. A waiter that does not ask again within a moment has left.
--
-- Limits beyond the client's own one: `limits` has a field for each that a refusal or the vendor's list has named, "<log> <name>",
-- with the value "<requests>:<window>:<known until>". The requests of all clients are counted in the log of the organisation too;
-- those of an endpoint only while it has a limit. A job that runs is a member of the jobs' log until the score's instant.
--
-- An empty Redis may have lost its data, and the vendor's window may be full of requests sent before. So for the length of one
-- window a client has one request in flight at a time, until the vendor itself has reported what remains. A caller that knows
-- another generation proves that data was lost: see restore.lua. A server that started within the last window, and is not the one
-- that last ran this script, may have loaded an old dump, so unless it keeps an append-only file it begins a new generation too.

local grant, known_generation = ARGV[1], ARGV[2]
local window, max_in_flight, slots = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local idle, share, reserve = tonumber(ARGV[6]), tonumber(ARGV[7]) / 1000, tonumber(ARGV[8])
local organisation_limit, jobs_limit, job_time = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local RECHECK, RECHECK_JOBS, YIELD, MOMENT = 50000, 250000, 5000, 250000

-- Lua prints large numbers as 1.79e+15; a score must keep every digit.
local function integer(number)
  return string.format('%.0f', number)
end
local idle_ms = integer(math.ceil(idle / 1000))

-- The generation is stored with the id of the server's run, in a cluster "<run>@<node>". A server that took over, as a replica does,
-- has been running for longer. A node of a cluster may be new and have got the keys from another one, which lost nothing; after a
-- restart it has the same id.
local stored_generation = redis.call('GET', KEYS[2])
local generation, last_run, last_node = string.match(stored_generation or '', '^(%S+) ?(%x*)(%S*)$')
local server = redis.pcall('INFO', 'server')
local run, node, is_restarted = last_run, last_node, false
if type(server) == 'string' then
  run, node = string.match(server, 'run_id:(%x+)'), ''
  local is_same_node = true
  if string.find(server, '_mode:cluster') then
    local id = redis.pcall('CLUSTER', 'MYID')
    is_same_node = type(id) == 'string' and '@' .. id == last_node
    node = type(id) == 'string' and '@' .. id or ''
  end
  local uptime = tonumber(string.match(server, 'uptime_in_seconds:(%d+)')) * 1000000
  local is_other = last_run ~= '' and run ~= last_run and is_same_node
  -- An append-only file has what was granted up to the last second.
  is_restarted = is_other and uptime <= window + max_in_flight
    and not string.find(redis.call('INFO', 'persistence'), 'aof_enabled:1')
end
if not generation or is_restarted then
  generation = grant
  redis.call('HSET', KEYS[3], 'since', integer(now), 'created_at', integer(now))
  redis.call('PEXPIRE', KEYS[3], integer(math.ceil(window / 1000)))
end
local stamped = generation .. ' ' .. (run or '') .. (node or '')
if stamped ~= stored_generation then
  redis.call('SET', KEYS[2], stamped)
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

local organisation_log, endpoint_log, jobs_log = KEYS[5], KEYS[7], KEYS[9]

local limits = {}
local stored_limits = redis.call('HGETALL', KEYS[4])
for at = 1, #stored_limits, 2 do
  local log = string.match(stored_limits[at], '^(.*) %S+$')
  local value, length, known_until = string.match(stored_limits[at + 1], '^(%d+):(%d+):(%d+)$')
  if log and value and tonumber(known_until) > now then
    limits[log] = limits[log] or {}
    table.insert(limits[log], {tonumber(value), tonumber(length)})
  end
end
if organisation_limit > 0 then
  limits[organisation_log] = limits[organisation_log] or {}
  table.insert(limits[organisation_log], {organisation_limit, window})
end

-- The instant from which fewer than so many requests of a log count within a window.
local function free_at_of(log, length, slots)
  local counted_from = '(' .. integer(now - length)
  local excess = redis.call('ZCOUNT', log, counted_from, '+inf') - slots
  if excess < 0 then
    return now
  end
  local blocking = redis.call('ZRANGEBYSCORE', log, counted_from, '+inf', 'WITHSCORES', 'LIMIT', excess, 1)[2]
  return blocking and math.min(tonumber(blocking), now) + length or now + length
end

-- Drops what counts no more, and returns the instant from which all named limits of a log allow a request.
local function limits_free_at(log, unused)
  local longest, free_at = window, now
  for _, limit in ipairs(limits[log] or {}) do
    local slots = math.max(1, math.floor((limit[1] - unused) * share + 0.000001))
    free_at = math.max(free_at, free_at_of(log, limit[2], slots))
    longest = math.max(longest, limit[2])
  end
  redis.call('ZREMRANGEBYSCORE', log, '-inf', integer(now - longest - max_in_flight))
  return free_at, longest
end

local shared_free_at, organisation_window = limits_free_at(organisation_log, 0)
local endpoint_free_at, endpoint_window = limits_free_at(endpoint_log, 0)
shared_free_at = math.max(shared_free_at, endpoint_free_at)
for _, state in ipairs({KEYS[6], KEYS[8]}) do
  shared_free_at = math.max(shared_free_at, tonumber(redis.call('HGET', state, 'throttled_until') or 0))
end
if job_time > 0 then
  redis.call('ZREMRANGEBYSCORE', jobs_log, '-inf', integer(now))
  local most = jobs_limit > 0 and jobs_limit or nil
  for _, limit in ipairs(limits[jobs_log] or {}) do
    most = math.min(most or limit[1], limit[1])
  end
  if most and redis.call('ZCARD', jobs_log) >= math.max(1, math.floor(most * share + 0.000001)) then
    shared_free_at = math.max(shared_free_at, now + RECHECK_JOBS)
  end
  shared_free_at = math.max(shared_free_at, tonumber(redis.call('HGET', KEYS[10], 'throttled_until') or 0))
end

local cold_since = tonumber(redis.call('HGET', KEYS[3], 'since') or nil)
local open, wait = {}, nil
for candidate = 1, (#KEYS - 12) / 2 do
  local log, state = KEYS[candidate * 2 + 11], KEYS[candidate * 2 + 12]
  local limits_allow_at = limits_free_at(log, reserve)
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
  free_at = math.max(free_at, throttled_until, limits_allow_at, shared_free_at)
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

local turns, waiting, waiter, callers = KEYS[11], KEYS[12], ARGV[12], ARGV[13]
-- The member without a name is the turn from which the others are counted.
local SERVED = ''
local served = tonumber(redis.call('ZSCORE', turns, SERVED) or 0)

local function wait_for(time)
  redis.call('HSET', waiting, waiter, integer(now + time) .. ' ' .. callers)
  redis.call('PEXPIRE', waiting, idle_ms)
  return {'wait', integer(math.ceil(time)), generation}
end

-- The earliest turn of some callers, and the caller who has it.
local function earliest_turn(callers)
  local earliest, whose = nil, nil
  for caller in string.gmatch(callers, '%S+') do
    local turn = math.max(served, tonumber(redis.call('ZSCORE', turns, caller) or 0))
    if not earliest or turn < earliest then
      earliest, whose = turn, caller
    end
  end
  return earliest, whose
end

if #open == 0 then
  return wait_for(wait)
end

local waiters = redis.call('HGETALL', waiting)
local turn, whose = earliest_turn(callers)
local is_contended, earliest = false, turn
for at = 1, #waiters, 2 do
  local ready_at, others = string.match(waiters[at + 1], '^(%d+) (.*)$')
  ready_at = tonumber(ready_at)
  if waiters[at] ~= waiter and now > ready_at + MOMENT then
    redis.call('HDEL', waiting, waiters[at])
  elseif waiters[at] ~= waiter then
    is_contended = true
    if ready_at <= now + YIELD then
      local other_turn = earliest_turn(others)
      if ready_at <= now and other_turn < turn then
        return wait_for(YIELD)
      end
      earliest = math.min(earliest, other_turn)
    end
  end
end
if ARGV[14] == '1' then
  -- It asks for the next one at once.
  wait_for(0)
elseif #waiters > 0 then
  redis.call('HDEL', waiting, waiter)
end
if is_contended then
  served = math.max(served, earliest)
  redis.call('ZADD', turns, served, SERVED, turn + 1, whose)
  redis.call('ZREMRANGEBYSCORE', turns, '-inf', '(' .. integer(served))
  redis.call('PEXPIRE', turns, idle_ms)
end

-- Smooth weighted round-robin: every open client gains its weight; the one with the most credit is chosen and pays the sum of all
-- gains. A client that is the only candidate gains and pays the same, so it leaves the round-robin as it was.
local gained, chosen, most_credit = 0, nil, nil
for _, candidate in ipairs(open) do
  local weight = tonumber(ARGV[14 + candidate])
  local credit = redis.call('HINCRBY', KEYS[1], KEYS[candidate * 2 + 11], weight)
  gained = gained + weight
  if not most_credit or credit > most_credit then
    chosen, most_credit = candidate, credit
  end
end
redis.call('HINCRBY', KEYS[1], KEYS[chosen * 2 + 11], -gained)
redis.call('PEXPIRE', KEYS[1], idle_ms)

local log, state = KEYS[chosen * 2 + 11], KEYS[chosen * 2 + 12]
local counted = {{log, window}, {organisation_log, organisation_window}}
if limits[endpoint_log] then
  table.insert(counted, {endpoint_log, endpoint_window})
end
for _, each in ipairs(counted) do
  redis.call('ZADD', each[1], integer(now + max_in_flight), grant)
  redis.call('PEXPIRE', each[1], integer(math.ceil((each[2] + max_in_flight) / 500)))
end
if job_time > 0 then
  redis.call('ZADD', jobs_log, integer(now + job_time), grant)
  redis.call('PEXPIRE', jobs_log, integer(math.ceil(job_time / 1000)))
end
redis.call('HINCRBY', state, 'granted', 1)
redis.call('PEXPIRE', state, idle_ms)
return {'granted', chosen, generation}
