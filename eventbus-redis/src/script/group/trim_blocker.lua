-- Finds the reader at which trimming would stop: the one that is furthest behind, if it has entries to finish. Writes
-- no key.
-- KEYS  stream, projections
-- Replies {0, 0, the length, the time in ms, and what blocks, as `trim.lua` does}.
local stream, now = KEYS[1], now_in_ms()
local first = first_of(stream)
if not first then return {0, 0, 0, now, 'none', '', ''} end
local length = redis.call('XLEN', stream)
local floor, reason, holder = trim_floor(stream, KEYS[2], first)
local oldest = floor and redis.call('XRANGE', stream, floor, '+', 'COUNT', 1)[1]
if not oldest then return {0, 0, length, now, 'none', '', ''} end
return {0, 0, length, now, reason, holder, reason == 'pending' and floor or oldest[1]}
