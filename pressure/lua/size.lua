#!lua flags=no-writes
-- How long the queue is. Items fetched ahead and not handed out are still in it.
-- KEYS  base bound closed prefetched
-- ARGV
-- reply {OK, length, bound, closed} | {ABSENT}
local base, bound, closed, prefetched = unpack(KEYS)
local limit = call('GET', bound)
if not limit then return {ABSENT} end
return {OK, used(base, prefetched), tonumber(limit), call('EXISTS', closed)}
