-- Takes ids out of the index of one queue.
-- KEYS[1]  what all keys of the queue begin with
-- ARGV     most ids that are due, most ids whose time has come, now, every which id comes from the lowest priority
-- Answers  whether the index is complete, when the next delayed id comes due, ids whose time has come, ids that are due
local base = KEYS[1]
local ready_room, due_room, now, low_turn = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local mark, delayed = base .. ':mark', base .. ':delayed'
local complete, turn, wanting = unpack(redis.call('HMGET', mark, 'complete', 'turn', 'wanting'))
turn = tonumber(turn or 0)

-- Both rooms are bounded by the caller, and so are the lists given to unpack.
local due = {}
if due_room > 0 then
  due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, due_room)
  if #due > 0 then redis.call('ZREM', delayed, unpack(due)) end
end

local ready = {}
-- Of the tenant whose turn it is: one id, or up to `count` if no other tenant waits.
local function take(priority, count)
  local ring = base .. ':ring:' .. priority
  local tenant = redis.call('LPOP', ring)
  if not tenant then return 0 end
  local list = base .. ':list:' .. priority .. ':' .. tenant
  if count > 1 and redis.call('EXISTS', ring) == 1 then count = 1 end
  local ids = redis.call('LPOP', list, count) or {}
  for _, id in ipairs(ids) do ready[#ready + 1] = id end
  if redis.call('EXISTS', list) == 1 then redis.call('RPUSH', ring, tenant) end
  return #ids
end

while #ready < ready_room do
  local before_low = low_turn - 1 - turn
  local taken = 0
  if before_low == 0 then
    for priority = 3, 0, -1 do
      taken = take(priority, 1)
      if taken > 0 then break end
    end
  else
    for priority = 0, 3 do
      taken = take(priority, math.min(before_low, ready_room - #ready))
      if taken > 0 then break end
    end
  end
  if taken == 0 then break end
  turn = (turn + taken) % low_turn
end
if #ready > 0 then
  redis.call('SREM', base .. ':listed', unpack(ready))
  redis.call('HSET', mark, 'turn', turn)
end
if #ready < ready_room and not wanting then
  redis.call('HSET', mark, 'wanting', 1)
end

return { complete or '', redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2] or '', due, ready }
