-- Keeps a consumer's claim on entries that are still its own.
-- KEYS stream   ARGV group, consumer, id ...
-- Replies with {ids that it has lost, as somebody else has claimed or finished them; ids that nobody else can have though
-- they are not pending, of entries that are gone, or that the group is about to read again, as it was made anew}.
local stream, group, me = KEYS[1], ARGV[1], ARGV[2]
local keep, lost, free = { 'XCLAIM', stream, group, me, 0 }, {}, {}
for i = 3, #ARGV do
  local id = ARGV[i]
  if #redis.call('XPENDING', stream, group, id, id, 1, me) == 1 then
    keep[#keep + 1] = id
  elseif #redis.call('XRANGE', stream, id, id) == 1 and not is_unread(stream, group, id) then
    lost[#lost + 1] = id
  else
    free[#free + 1] = id
  end
end
if #keep > 5 then
  keep[#keep + 1] = 'JUSTID'
  redis.call(unpack(keep))
end
return { lost, free }
