package auth

import (
	"container/list"
	"time"
)

// cache keeps verdicts until they expire, at most max of them: the one not asked for longest makes room. It is not safe
// for concurrent use.
type cache struct {
	max    int
	byKey  map[tokenKey]*list.Element
	recent *list.List // of *cached, the one asked for last in front
}

type cached struct {
	key     tokenKey
	verdict verdict
	expires time.Time
}

func newCache(maximum int) *cache {
	return &cache{max: maximum, byKey: make(map[tokenKey]*list.Element), recent: list.New()}
}

func (c *cache) get(key tokenKey, now time.Time) (verdict, bool) {
	element, ok := c.byKey[key]
	if !ok {
		return verdict{}, false
	}
	found := element.Value.(*cached)
	if !now.Before(found.expires) {
		c.remove(element)
		return verdict{}, false
	}
	c.recent.MoveToFront(element)
	return found.verdict, true
}

func (c *cache) put(key tokenKey, v verdict, expires, now time.Time) {
	if !now.Before(expires) {
		return
	}
	if element, ok := c.byKey[key]; ok {
		c.remove(element)
	}
	if c.recent.Len() >= c.max {
		c.remove(c.recent.Back())
	}
	c.byKey[key] = c.recent.PushFront(&cached{key, v, expires})
}

func (c *cache) remove(element *list.Element) {
	delete(c.byKey, c.recent.Remove(element).(*cached).key)
}
