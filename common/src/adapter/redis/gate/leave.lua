-- A call is over. The same judgement as domain/gate.rs, by the server's clock, in milliseconds.
-- KEYS[1]  what all keys of the gate begin with
-- ARGV     permit, success, failure or neutral, how long to pause, per cent of failures, least calls, window in seconds,
--          how long the breaker stays open, successes that close it, how long an unused gate is kept
local base = KEYS[1]
local permit, verdict = ARGV[1], ARGV[2]
local pause_ms, percent, min_calls, window = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local open_ms, probes, keep_ms = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local state = base .. ':state'
local time = redis.call('TIME')
local second = tonumber(time[1])
local now = second * 1000 + math.floor(time[2] / 1000)

redis.call('ZREM', base .. ':held', permit)
local probe = redis.call('ZREM', base .. ':probing', permit) == 1

local changed = false
if pause_ms > 0 then
  local paused = tonumber(redis.call('HGET', state, 'paused') or 0)
  redis.call('HSET', state, 'paused', math.max(paused, now + pause_ms))
  changed = true
end

-- Forgets the calls that were counted.
local function open_breaker()
  local counted = {}
  for slot = 0, window - 1 do counted[#counted + 1] = 'w' .. slot end
  redis.call('HDEL', state, 'successes', unpack(counted))
  redis.call('HSET', state, 'open', now + open_ms)
end

local open, successes = unpack(redis.call('HMGET', state, 'open', 'successes'))
if verdict ~= 'neutral' and not open then
  changed = true
  if not successes then
    -- One slot a second, used again when the window has passed: 'second:calls:failures'.
    local slots = {}
    for slot = 0, window - 1 do slots[#slots + 1] = 'w' .. slot end
    local calls, failures = 0, 0
    local mine, my_calls, my_failures = second % window, 1, verdict == 'failure' and 1 or 0
    for index, text in ipairs(redis.call('HMGET', state, unpack(slots))) do
      if text then
        local at, c, f = string.match(text, '(%d+):(%d+):(%d+)')
        at, c, f = tonumber(at), tonumber(c), tonumber(f)
        if index - 1 == mine then
          if at == second then my_calls, my_failures = my_calls + c, my_failures + f end
        elseif at > second - window then
          calls, failures = calls + c, failures + f
        end
      end
    end
    redis.call('HSET', state, 'w' .. mine, second .. ':' .. my_calls .. ':' .. my_failures)
    calls, failures = calls + my_calls, failures + my_failures
    if verdict == 'failure' and calls >= min_calls and failures * 100 >= calls * percent then open_breaker() end
  elseif probe then
    if verdict == 'failure' then
      open_breaker()
    elseif tonumber(successes) + 1 >= probes then
      redis.call('HDEL', state, 'successes')
    else
      redis.call('HINCRBY', state, 'successes', 1)
    end
  end
end

if changed then
  local keep = keep_ms + pause_ms
  if redis.call('PTTL', state) < keep then redis.call('PEXPIRE', state, keep) end
end
return 0
