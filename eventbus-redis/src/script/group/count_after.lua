-- Counts the entries of a page.
--
-- KEYS  stream
-- ARGV  the id after which the page begins, number of entries to count, and of their bytes
-- Replies {the number of entries, the end of the page}.

local entries = read_page('XRANGE', KEYS[1], '(' .. ARGV[1], '+', tonumber(ARGV[2]), tonumber(ARGV[3]))
return {#entries, #entries > 0 and entries[#entries][1] or ARGV[1]}
