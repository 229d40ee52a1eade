#!lua flags=allow-oom
-- Take items out of the queue that nobody has taken yet.
-- KEYS  base bound not_full room prefetched joiners joined blobs
-- ARGV  raw tag...
-- reply {OK, 1 | 0...} (one number per tag: withdrawn or not there) | {ABSENT}
local base, bound, not_full, room, prefetched, joiners, joined, blobs = unpack(KEYS)
local raw = ARGV[1] == '1'
if call('EXISTS', bound) == 0 then return {ABSENT} end
local wanted, count = {}, #ARGV - 1
for i = 2, #ARGV do wanted[ARGV[i]] = i end
local reply = {OK}
for i = 2, #ARGV do reply[i] = 0 end
local length = call('LLEN', base)
-- From the newest end: what is withdrawn was mostly put a moment ago.
for from = 0, length - 1, SLICE do
  if count == 0 then break end
  local gone = {}
  for _, value in ipairs(call('LRANGE', base, from, from + SLICE - 1)) do
    local at = wanted[tag_of(value, raw)]
    if at and reply[at] == 0 then gone[at] = value end
  end
  for at, value in pairs(gone) do
    call('LREM', base, 1, value)
    drop_blob(blobs, value, raw)
    reply[at] = 1
    count = count - 1
  end
end
restore_room(base, bound, prefetched, not_full, room)
hint_joiners(joiners, joined)
return reply
