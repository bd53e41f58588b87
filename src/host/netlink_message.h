/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the form of netlink messages: netlink(7). Whoever writes one has room for it; whoever reads one has checked its length with
 * netlink_ok(), and attributes with the loops below or netlink_attr_ok().
 */
#pragma once

#include <linux/netlink.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ------------------------------------------------------------------ writing */

static inline struct nlmsghdr *netlink_begin(void *bytes)
{
	struct nlmsghdr *h = bytes;
	*h = (struct nlmsghdr){.nlmsg_len = NLMSG_HDRLEN};
	return h;
}

/* n more bytes at the end, and zeroes up to where the next may begin. */
static inline void *netlink_append(struct nlmsghdr *h, size_t n)
{
	char *at = (char *)h + NLMSG_ALIGN(h->nlmsg_len);
	memset(at, 0, NLMSG_ALIGN(n));
	h->nlmsg_len = NLMSG_ALIGN(h->nlmsg_len) + (uint32_t)NLMSG_ALIGN(n);
	return at;
}

static inline void netlink_put(struct nlmsghdr *h, unsigned type, size_t n, const void *value)
{
	struct nlattr *attr = netlink_append(h, NLA_HDRLEN + n);
	attr->nla_type = (uint16_t)type;
	attr->nla_len = (uint16_t)(NLA_HDRLEN + n);
	memcpy((char *)attr + NLA_HDRLEN, value, n);
}

static inline void netlink_put_u32(struct nlmsghdr *h, unsigned type, uint32_t value)
{
	netlink_put(h, type, sizeof(value), &value);
}

/* With its NUL. */
static inline void netlink_put_string(struct nlmsghdr *h, unsigned type, const char *value)
{
	netlink_put(h, type, strlen(value) + 1, value);
}

/* What is put until netlink_nest_end() belongs to it. */
static inline struct nlattr *netlink_nest(struct nlmsghdr *h, unsigned type)
{
	struct nlattr *attr = netlink_append(h, NLA_HDRLEN);
	attr->nla_type = (uint16_t)(NLA_F_NESTED | type);
	return attr;
}

static inline void netlink_nest_end(const struct nlmsghdr *h, struct nlattr *attr)
{
	attr->nla_len = (uint16_t)((const char *)h + h->nlmsg_len - (const char *)attr);
}

/* ------------------------------------------------------------------ reading */

/* Whether a message begins here that ends within `left` bytes. */
static inline bool netlink_ok(const struct nlmsghdr *h, int left)
{
	return left >= (int)sizeof(*h) && h->nlmsg_len >= sizeof(*h) && h->nlmsg_len <= (unsigned)left;
}

static inline const struct nlmsghdr *netlink_next(const struct nlmsghdr *h, int *left)
{
	*left -= (int)NLMSG_ALIGN(h->nlmsg_len);
	return (const void *)((const char *)h + NLMSG_ALIGN(h->nlmsg_len));
}

static inline const void *netlink_body(const struct nlmsghdr *h)
{
	return (const char *)h + NLMSG_HDRLEN;
}

static inline size_t netlink_body_len(const struct nlmsghdr *h)
{
	return h->nlmsg_len - NLMSG_HDRLEN;
}

static inline bool netlink_attr_ok(const struct nlattr *attr, int left)
{
	return left >= (int)sizeof(*attr) && attr->nla_len >= sizeof(*attr) && attr->nla_len <= left;
}

static inline const struct nlattr *netlink_attr_next(const struct nlattr *attr)
{
	return (const void *)((const char *)attr + NLA_ALIGN(attr->nla_len));
}

static inline unsigned netlink_attr_type(const struct nlattr *attr)
{
	return attr->nla_type & NLA_TYPE_MASK;
}

static inline void *netlink_attr_body(const struct nlattr *attr)
{
	return (char *)attr + NLA_HDRLEN;
}

static inline size_t netlink_attr_len(const struct nlattr *attr)
{
	return attr->nla_len - NLA_HDRLEN;
}

/* What is shorter than it should be counts as 0, and a string without an end as an empty one. */
static inline uint8_t netlink_attr_u8(const struct nlattr *attr)
{
	return netlink_attr_len(attr) ? *(const uint8_t *)netlink_attr_body(attr) : 0;
}

static inline uint32_t netlink_attr_u32(const struct nlattr *attr)
{
	uint32_t value = 0;
	if (netlink_attr_len(attr) >= sizeof(value))
		memcpy(&value, netlink_attr_body(attr), sizeof(value));
	return value;
}

static inline const char *netlink_attr_string(const struct nlattr *attr)
{
	const char *text = netlink_attr_body(attr);
	return memchr(text, '\0', netlink_attr_len(attr)) ? text : "";
}

#define netlink_for_each_between(attr, begin, end)                                   \
	for (const struct nlattr *attr = (const void *)(begin);                      \
	     netlink_attr_ok(attr, (int)((const char *)(end) - (const char *)attr)); \
	     attr = netlink_attr_next(attr))

/* The attributes of a message behind the `head` bytes that its type begins with. */
#define netlink_for_each(attr, h, head)                                                   \
	netlink_for_each_between(attr, (const char *)netlink_body(h) + NLMSG_ALIGN(head), \
				 (const char *)(h) + (h)->nlmsg_len)

#define netlink_for_each_nested(attr, nest) \
	netlink_for_each_between(attr, netlink_attr_body(nest), (const char *)(nest) + (nest)->nla_len)
