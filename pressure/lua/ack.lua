#!lua flags=allow-oom
-- Acknowledge without taking: for leases, and for what rode on no further take.
-- KEYS  base bound not_full room leases taken fetched prefetched joiners joined blobs producers
-- ARGV  consumer number raw kinds tag... (see `acknowledge`)
-- reply {OK, finished} (how many leased items were there) | {LOST}
local base, bound, not_full, room, leases, taken, fetched, prefetched, joiners, joined, blobs,
  producers = unpack(KEYS)
local id, number, raw, kinds = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1', ARGV[4]

if not call('ZSCORE', leases, id) or call('EXISTS', bound) == 0 then return {LOST} end
local done, made_room = acknowledge(taken, kinds, slice(5, #ARGV), id, number, raw, producers, fetched,
  prefetched, blobs, joiners, joined, base)
live_like(bound, fetched, producers)
if made_room then restore_room(base, bound, prefetched, not_full, room) end
return {OK, done}
