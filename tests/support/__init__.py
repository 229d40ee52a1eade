"""What the tests share: real servers, a faulty network, doomed processes, and a bookkeeper.

| module    | job                                                                      |
|-----------|--------------------------------------------------------------------------|
| servers   | start, stop, kill, pause and restart a private Redis or Valkey           |
| proxy     | stand between clients and their server, and lose a reply, stall, cut ... |
| relay     | one connection of the proxy, and what happens to it                      |
| resp      | where a message of the Redis protocol ends                               |
| published | a client of the published protocol 0.15, independent of `pressure`       |
| processes | run a function in a child that dies or freezes at a named point          |
| child     | the child's side of that                                                 |
| account   | what was sent, acknowledged and delivered, and whether that adds up      |
| waiting   | wait for a condition that nothing announces                              |
| spawning  | how all processes are started, so that none outlives the tests           |
| fixtures  | the pytest fixtures over these                                           |

Nothing here imports `pressure`: a defect of the library can't hide in the tools of its tests.
"""
