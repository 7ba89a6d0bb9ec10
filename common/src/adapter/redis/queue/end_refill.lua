-- Declares the index of one queue complete, unless it lost its content since the refill began.
-- KEYS[1]  what all keys of the queue begin with
-- ARGV     the token of the refill
local mark = KEYS[1] .. ':mark'
if redis.call('HGET', mark, 'refill') ~= ARGV[1] then return 0 end
redis.call('HDEL', mark, 'refill')
redis.call('HSET', mark, 'complete', 1)
return 1
