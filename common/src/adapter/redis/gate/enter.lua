-- Asks to call one destination. The same decision as domain/gate.rs, by the server's clock, in milliseconds.
-- KEYS[1]  what all keys of the gate begin with
-- ARGV     permit, calls at once, calls a second (0: any), burst, probes, how long the permit holds, how long the busy wait,
--          how long an unused gate is kept
-- Answers  0 and '' if the call may be made; else how long to wait and why
local base = KEYS[1]
local permit = ARGV[1]
local concurrency, rate, burst, probes = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local permit_ms, busy_ms, keep_ms = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local held, probing, state = base .. ':held', base .. ':probing', base .. ':state'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('ZREMRANGEBYSCORE', held, '-inf', now)
redis.call('ZREMRANGEBYSCORE', probing, '-inf', now)
local paused, open, successes, tokens, refilled =
  unpack(redis.call('HMGET', state, 'paused', 'open', 'successes', 'tokens', 'refilled'))

paused = tonumber(paused or 0)
if paused > now then return {paused - now, 'destination_paused'} end

if open then
  open = tonumber(open)
  if open > now then return {open - now, 'destination_failing'} end
  redis.call('HDEL', state, 'open')
  redis.call('HSET', state, 'successes', 0)
  successes = 0
end
-- While successes are counted the breaker is half open.
local probe = successes and true or false
if probe and redis.call('ZCARD', probing) >= probes then return {busy_ms, 'destination_failing'} end
if redis.call('ZCARD', held) >= concurrency then return {busy_ms, 'destination_busy'} end

if rate > 0 then
  -- In thousandths of a token.
  local full = burst * 1000
  tokens, refilled = tonumber(tokens or full), tonumber(refilled or now)
  if now > refilled then
    tokens = math.min(full, tokens + (now - refilled) * rate)
    refilled = now
  end
  local enough = tokens >= 1000
  local wait = math.ceil((1000 - tokens) / rate)
  if enough then tokens = tokens - 1000 end
  redis.call('HSET', state, 'tokens', tokens, 'refilled', refilled)
  if redis.call('PTTL', state) < keep_ms then redis.call('PEXPIRE', state, keep_ms) end
  if not enough then return {wait, 'destination_rate'} end
end

redis.call('ZADD', held, now + permit_ms, permit)
redis.call('PEXPIRE', held, permit_ms + 1000)
if probe then
  redis.call('ZADD', probing, now + permit_ms, permit)
  redis.call('PEXPIRE', probing, permit_ms + 1000)
end
return {0, ''}
