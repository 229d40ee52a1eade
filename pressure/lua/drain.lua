#!lua flags=allow-oom
-- Drop everything that is queued. What consumers already hold stays theirs.
-- KEYS  base bound not_full room prefetched joiners joined blobs
-- ARGV  raw
-- reply {OK, dropped} | {ABSENT}
local base, bound, not_full, room, prefetched, joiners, joined, blobs = unpack(KEYS)
local raw = ARGV[1] == '1'
if call('EXISTS', bound) == 0 then return {ABSENT} end
local dropped, more = call('LLEN', base), 0
if call('EXISTS', blobs) == 1 or call('HGET', prefetched, '#') then
  for from = 0, dropped - 1, SLICE do
    for _, value in ipairs(call('LRANGE', base, from, from + SLICE - 1)) do
      drop_blob(blobs, value, raw)
      if not raw then more = more + behind(value) end
    end
  end
end
call('UNLINK', base)
count_behind(prefetched, -more)
restore_room(base, bound, prefetched, not_full, room)
hint_joiners(joiners, joined)
return {OK, dropped + more}
