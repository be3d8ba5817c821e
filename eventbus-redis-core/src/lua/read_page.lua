-- Reads a page of some streams.
-- KEYS  the streams
-- ARGV  XRANGE or XREVRANGE, from, to, maximum number of entries, maximum number of bytes
-- Replies with the entries, and 1 if there are more.
local entries, more = {}, 0
if tonumber(ARGV[4]) > 0 then
  entries, more = read_page(ARGV[1], KEYS, ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]))
end
return { entries, more }
