-- Reads the next entries of a projection, and the state of its stream in the same instant.
--
-- KEYS  stream, checkpoint, projections
-- ARGV  the projection, the id to read after or '' for the checkpoint, the most entries, the most bytes
-- Replies {checkpoint, the projection's note, a page of entries, 1 if there may be more, the number of entries ever added,
-- the length, the first id, the highest id ever added}.

local stream, none = KEYS[1], '0-0'
local at, note = redis.call('GET', KEYS[2]) or '0', redis.call('HGET', KEYS[3], ARGV[1]) or ''
if redis.call('EXISTS', stream) == 0 then return { at, note, {}, 0, 0, 0, none, none } end
local info = by_name(redis.call('XINFO', 'STREAM', stream))
local from = ARGV[2] == '' and at or ARGV[2]
local entries, more = read_page('XRANGE', stream, '(' .. from, '+', tonumber(ARGV[3]), tonumber(ARGV[4]))
local first = info['first-entry'] and info['first-entry'][1] or none
return { at, note, entries, more, info['entries-added'], info.length, first, info['last-generated-id'] }
