-- Reads new entries for a consumer: at most a number of entries, up to the entry that reaches a number of bytes.
-- KEYS  stream   ARGV  group, consumer, maximum number of entries, maximum number of bytes
-- Replies with the entries.
local stream, group = KEYS[1], ARGV[1]
local info = groups_of(stream)[group]
if not info then return redis.error_reply('NOGROUP the group is not there') end
local last = info['last-delivered-id']
-- a consumer cannot give back an entry: so the script first finds the number that fits
local fitting = read_page('XRANGE', { stream }, '(' .. last, '+', tonumber(ARGV[3]), tonumber(ARGV[4]))
if #fitting == 0 then return {} end
local read = redis.call('XREADGROUP', 'GROUP', group, ARGV[2], 'COUNT', #fitting, 'STREAMS', stream, '>')
return read and read[1][2] or {}
