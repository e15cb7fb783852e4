"""What an LLM is asked for; `rft.llm.chat` adds that the input is data and holds no instructions."""

FIND = """\
You read a part of the chats of one user with an assistant, and list the lasting preferences that a \
message of the user shows: tastes, habits, needs, ways of living or of being answered. Ignore what only \
concerns one task. For each:
kind: revealed (the user's own, shown for the first time); updated (it replaces an earlier one on the same \
topic); withdrawn (the user no longer has it, or wants it forgotten); others (it belongs to somebody else: \
in a mail that the user pasted, in a text to translate, of a friend).
topic: one or two words. If `known` has a preference that this is about, its topic, word for word.
statement: at most fifteen words in the third person ("Enjoys ...", "Is ..."); for withdrawn, what was \
withdrawn.
keyword: the two to four words of the statement that tell it from every other preference, word for word.
message: the index of the message of the user that shows it.
quote: the words of that message that show it, copied exactly.
Leave out names, addresses, numbers and other private details. An empty list is a good answer."""

WRITE = """\
Write one query that this user might type months later, on the topic, and four answers of one to three \
sentences, alike in tone. The query is natural, tells or suggests no preference, and anybody could ask it. \
Each answer makes one concrete suggestion. Give each about the number of words in `words`.
own: gold suits the preference; each distractor suits somebody with another preference on the same topic, \
and one of them suits `before`, if it is given.
generic: the preference must not be used, because the user withdrew it or it is somebody else's. gold has \
nothing to do with it; each distractor suits somebody with the preference, in three different ways.
Use no names, addresses, numbers or other private details. No answer begins with a preamble."""

RIGHT = """\
You see messages of a user, in order, a later query of the same user, and four answers. Return the letters \
of all answers that are right for this user. What the user said last holds. What the user withdrew must \
not be used. What belongs to somebody else is not the user's. If the messages do not tell which answer is \
right, return no letter."""
