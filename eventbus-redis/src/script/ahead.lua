-- What a projection has to process next, in one instant with how its stream stands.
--
-- KEYS  stream, checkpoint, projections
-- ARGV  the projection, the id to look from or '' for the checkpoint, how many entries at most, how many bytes
-- Replies {checkpoint, what is noted of the projection, the entry with the id if it is there, a page of entries after it, 1
-- if there may be more, how many the stream ever got or -1, how many it has, its first id, the highest id it ever had, the
-- highest one that was deleted by name}.

local stream, none = KEYS[1], '0-0'
local at, note = redis.call('GET', KEYS[2]) or '0', redis.call('HGET', KEYS[3], ARGV[1]) or ''
if redis.call('EXISTS', stream) == 0 then return { at, note, {}, {}, 0, 0, 0, none, none, none } end
local info = by_name(redis.call('XINFO', 'STREAM', stream))
local from = ARGV[2] == '' and at or ARGV[2]
local own = redis.call('XRANGE', stream, from, from, 'COUNT', 1)
local entries, more = read_page('XRANGE', { stream }, '(' .. from, '+', tonumber(ARGV[3]), tonumber(ARGV[4]))
local first = info['first-entry'] and info['first-entry'][1] or none
local added, deleted = info['entries-added'] or -1, info['max-deleted-entry-id'] or none
return { at, note, own, entries, more, added, info.length, first, info['last-generated-id'], deleted }
