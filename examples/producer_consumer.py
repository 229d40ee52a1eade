"""A queue between a producer and a consumer, on a server that lives as long as this program.

python examples/producer_consumer.py
"""

from __future__ import annotations

import pressure


def main() -> None:
    with pressure.local_server() as url:
        # Create two handles to the queue "test". In earnest they would be in two programs,
        # perhaps on two machines: a name and a URL are all they share.
        q1 = pressure.PressureQueue[str]("test", url=url)
        q2 = pressure.PressureQueue[str]("test", url=url)

        # Create the queue itself; once 5 items wait in it, put() waits for room.
        q1.create(bound=5)

        # Put the strings into one handle.
        for string in ["hello", "goodbye"]:
            q1.put(string)

        # Close the queue: no more data will be produced.
        q1.close()

        # Receive the strings from the other handle, until the closed queue is empty.
        for result in q2:
            print(result)

        # Delete the queue from the database. This is the consumer's part, since the consumer
        # knows when all of the data has been read.
        q2.delete()


if __name__ == "__main__":
    main()
