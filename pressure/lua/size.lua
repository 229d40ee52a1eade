#!lua flags=no-writes
-- How long the queue is. Items fetched ahead and not handed out are still in it.
-- KEYS  base bound closed prefetched
-- ARGV
-- reply {OK, length, bound, closed, fetched_ahead, reserved} | {ABSENT}
local base, bound, closed, prefetched = unpack(KEYS)
local limit = call('GET', bound)
if not limit then return {ABSENT} end
local ahead = tonumber(call('HGET', prefetched, '*') or 0)
local length = call('LLEN', base) + ahead + (call('HGET', prefetched, '#') or 0)
return {OK, length, tonumber(limit), call('EXISTS', closed), ahead,
  (reserved(prefetched, now_ms()))}
