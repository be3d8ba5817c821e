-- Adds entries to a stream, all or none, and replies with their ids.
--
-- Whether there is memory is asked before the first entry only, so those after it are not refused for want of it. What
-- can still refuse them, as a stream whose ids have run out, is told apart: `PARTLY`.
--
-- KEYS: the stream. ARGV: for each entry how many names and values follow, then these.
local ids, i = {}, 1
while i <= #ARGV do
    local last = i + tonumber(ARGV[i])
    local id = redis.pcall('XADD', KEYS[1], '*', unpack(ARGV, i + 1, last))
    if type(id) == 'table' then
        if #ids == 0 then
            return id
        end
        return redis.error_reply('PARTLY ' .. #ids .. ' events were added, then: ' .. id.err)
    end
    ids[#ids + 1] = id
    i = last + 1
end
return ids
