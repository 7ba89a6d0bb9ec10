-- Adds ids to the index of one queue.
-- KEYS[1]  what all keys of the queue begin with
-- ARGV     PUBLISH or SPUBLISH, the channel of the queue, then for each id: id, tenant, priority, due time or ''
local base = KEYS[1]
local delayed = base .. ':delayed'
local listed = base .. ':listed'
local next_due = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
local wanted = false

for i = 3, #ARGV, 4 do
  local id, tenant, priority, due_at = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if due_at == '' then
    if next_due then redis.call('ZREM', delayed, id) end
    if redis.call('SADD', listed, id) == 1 then
      -- A tenant stands in the ring exactly as long as it has a list.
      if redis.call('RPUSH', base .. ':list:' .. priority .. ':' .. tenant, id) == 1 then
        redis.call('RPUSH', base .. ':ring:' .. priority, tenant)
      end
      wanted = true
    end
  else
    redis.call('ZADD', delayed, due_at, id)
    if not next_due or tonumber(due_at) < tonumber(next_due) then
      next_due = due_at
      wanted = true
    end
  end
end

-- Only if somebody went away with less than it wanted since the last time.
if wanted and redis.call('HDEL', base .. ':mark', 'wanting') == 1 then
  redis.call(ARGV[1], ARGV[2], '')
end
