-- Declares that the index of one queue lacks jobs, and wakes who may refill it.
-- KEYS[1]  what all keys of the queue begin with
-- ARGV     PUBLISH or SPUBLISH, the channel of the queue
redis.call('HDEL', KEYS[1] .. ':mark', 'complete', 'refill', 'wanting')
redis.call(ARGV[1], ARGV[2], '')
