-- Reads a page of a stream.
-- KEYS  stream
-- ARGV  XRANGE or XREVRANGE, from, to, maximum number of entries, maximum number of bytes
-- Replies with the entries, and 1 if there are more.
if tonumber(ARGV[4]) == 0 then return { {}, 0 } end
return { read_page(ARGV[1], KEYS[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])) }
