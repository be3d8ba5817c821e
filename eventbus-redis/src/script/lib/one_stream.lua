local function try_to_add(stream, ...) return redis.pcall('XADD', stream, '*', ...) end
local function add(stream, ...) return redis.call('XADD', stream, '*', ...) end
local function remember() end

