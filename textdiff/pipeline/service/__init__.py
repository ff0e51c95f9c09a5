"""One model for many callers: requests over HTTP, each of which is a job, worked on in batches by one thread.

app.py      what is asked and answered over HTTP
worker.py   the requests that wait, and the thread that works on them
limits.py   how much a request may ask for
counts.py   what /metrics says
demo.py     the page on which people write poems, which stands in page/
"""
