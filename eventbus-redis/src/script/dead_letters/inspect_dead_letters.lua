-- Returns the state of the stream of dead letters, and the record of a store's copies of them.
--
-- KEYS  the record of copies, dead letters
-- ARGV  store
-- Replies {the record or nil, the number of dead letters, the highest id ever, the highest deleted id, the number ever
-- added}.
local record = redis.call('HGET', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then return { record, '0', '0-0', '0-0', '0' } end
local reply, info = redis.call('XINFO', 'STREAM', KEYS[2]), {}
for i = 1, #reply, 2 do info[reply[i]] = reply[i + 1] end
local function number(name) return string.format('%.0f', info[name]) end
return { record, number('length'), info['last-generated-id'], info['max-deleted-entry-id'], number('entries-added') }
