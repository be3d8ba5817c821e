local function add(stream, ...) return redis.call('XADD', stream, '*', ...) end
local function remember() end

