-- Says what the stream of dead letters has come to, and what is noted of the copies that a store has of them.
--
-- KEYS  the record of copies, dead letters
-- ARGV  store
-- Replies {its record or nil, how many dead letters there are, the newest id ever, the highest id that was deleted, how many
-- were ever added}.
local record = redis.call('HGET', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then return { record, '0', '0-0', '0-0', '0' } end
local reply, info = redis.call('XINFO', 'STREAM', KEYS[2]), {}
for i = 1, #reply, 2 do info[reply[i]] = reply[i + 1] end
local function number(name) return string.format('%.0f', info[name]) end
return { record, number('length'), info['last-generated-id'], info['max-deleted-entry-id'], number('entries-added') }
