#!lua flags=no-writes
-- Reads entries of a stream: at least one if there is one, then no more than a number of bytes.
-- KEYS  the stream
-- ARGV  XRANGE or XREVRANGE, from, to, how many entries at most, how many bytes of values
-- Reply: the entries, and 1 if there may be more
local STEP = 16
local from, count, most = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local entries, bytes = {}, 0
while #entries < count do
  local step = math.min(STEP, count - #entries)
  local found = redis.call(ARGV[1], KEYS[1], from, ARGV[3], 'COUNT', step)
  for _, entry in ipairs(found) do
    local fields = entry[2]
    for i = 2, #fields, 2 do bytes = bytes + #fields[i] end
    if bytes > most and #entries > 0 then return { entries, 1 } end
    entries[#entries + 1] = entry
  end
  if #found < step then return { entries, 0 } end
  from = '(' .. found[step][1]
end
return { entries, 1 }
