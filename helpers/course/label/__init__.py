"""`python -m helpers label`: compare pairs of responses in a browser, alone or with others.

`queue` decides who sees what next, and blind; `server` answers the page's requests; the page itself
is `page.html` with `page.js` and `page.css`.
"""

from helpers.course.label import queue

__all__ = ["queue"]
