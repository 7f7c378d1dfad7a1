-- Grants one request to one client, or says how long to wait.
--
-- KEYS  wheel, generation, careful, then log and state of each candidate client
-- ARGV  grant id, generation the caller knows ('' at first), window, hold, slots of the lane, time to live of
--       idle state, then the weight of each candidate; all times in microseconds
-- Gives {'granted', candidate number, generation}, {'wait', microseconds, generation} or {'restore', generation}: Redis has
-- lost what it knew since the caller last asked, so the caller first tells what it sent itself.
--
-- A log holds one member per grant. Its score is the instant the request was answered or, until then, the latest instant at
-- which it can still arrive at the vendor: a sender that died is counted for as long as it may matter, and no longer.
-- A caller asks again with the same grant id, so that a later version may keep its place in a queue.
--
-- Where nothing is known, as in an empty Redis, which may have lost its memory, the vendor's window may be full of what was
-- sent before. So for the length of one window a client has one request under way at a time, until the vendor itself has told
-- what remains. A caller that knows of another generation shows that memory was lost for sure: see restore.lua.

local grant, known = ARGV[1], ARGV[2]
local window, hold, slots = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local idle = tonumber(ARGV[6])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local LOOK_AGAIN = 50000

-- Lua prints large numbers as 1.79e+15; a score must keep every digit.
local function whole(number)
  return string.format('%.0f', number)
end
local idle_ms = whole(math.ceil(idle / 1000))

local generation = redis.call('GET', KEYS[2])
if not generation then
  generation = grant
  redis.call('SET', KEYS[2], generation)
  redis.call('HSET', KEYS[3], 'since', whole(now), 'born', whole(now))
  redis.call('PEXPIRE', KEYS[3], whole(math.ceil(window / 1000)))
end
redis.call('PEXPIRE', KEYS[2], idle_ms)
if known ~= '' and known ~= generation then
  local born = redis.call('HGET', KEYS[3], 'born')
  if born then
    redis.call('HSET', KEYS[3], 'lost_until', whole(tonumber(born) + window))
  end
  return {'restore', generation}
end

local careful_since = tonumber(redis.call('HGET', KEYS[3], 'since') or nil)
local open, wait = {}, nil
for candidate = 1, (#KEYS - 3) / 2 do
  local log, state = KEYS[candidate * 2 + 2], KEYS[candidate * 2 + 3]
  redis.call('ZREMRANGEBYSCORE', log, '-inf', whole(now - window - hold))
  local told = redis.call('HMGET', state, 'throttled_until', 'foreign', 'foreign_until', 'told_at')
  local throttled_until = tonumber(told[1] or 0)
  local foreign, foreign_until = tonumber(told[2] or 0), tonumber(told[3] or 0)
  if foreign_until <= now then
    foreign = 0
  end

  local counted_from = '(' .. whole(now - window)
  local too_many = redis.call('ZCOUNT', log, counted_from, '+inf') + foreign - slots
  local free_at = now
  if too_many >= 0 then
    free_at = now + window
    local last_to_leave = redis.call('ZRANGEBYSCORE', log, counted_from, '+inf', 'WITHSCORES', 'LIMIT', too_many, 1)[2]
    if last_to_leave then
      free_at = math.min(tonumber(last_to_leave), now) + window
    end
    if foreign > 0 then
      free_at = math.min(free_at, foreign_until)
    end
  end
  free_at = math.max(free_at, throttled_until)
  if careful_since and tonumber(told[4] or 0) < careful_since and redis.call('ZCOUNT', log, '(' .. whole(now), '+inf') > 0 then
    -- Nobody knows when the answer comes.
    free_at = math.max(free_at, now + LOOK_AGAIN)
  end

  if free_at <= now then
    table.insert(open, candidate)
  elseif not wait or free_at - now < wait then
    wait = free_at - now
  end
end

if #open == 0 then
  return {'wait', whole(math.ceil(wait)), generation}
end

-- Smooth weighted round-robin: every open client gains its weight, the richest is chosen and pays what all gained.
-- A client that was asked for by name gains and pays alike, so it leaves the wheel as it was.
local gained, chosen, richest = 0, nil, nil
for _, candidate in ipairs(open) do
  local weight = tonumber(ARGV[6 + candidate])
  local credit = redis.call('HINCRBY', KEYS[1], KEYS[candidate * 2 + 2], weight)
  gained = gained + weight
  if not richest or credit > richest then
    chosen, richest = candidate, credit
  end
end
redis.call('HINCRBY', KEYS[1], KEYS[chosen * 2 + 2], -gained)
redis.call('PEXPIRE', KEYS[1], idle_ms)

local log, state = KEYS[chosen * 2 + 2], KEYS[chosen * 2 + 3]
redis.call('ZADD', log, whole(now + hold), grant)
redis.call('PEXPIRE', log, whole(math.ceil((window + hold) / 500)))
redis.call('HINCRBY', state, 'granted', 1)
redis.call('PEXPIRE', state, idle_ms)
return {'granted', chosen, generation}
