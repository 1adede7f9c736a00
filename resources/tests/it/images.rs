use futures::stream;
use yiqiu_base::{Code, NodeType, Power, secret::hex};
use yiqiu_resources::{model::ImageState, service::LineRequest};

use crate::support::{Tier, line, ops, size, tenant};

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex(&sha2::Sha256::digest(bytes))
}

fn content(parts: &[&'static [u8]]) -> impl futures::Stream<Item = Result<bytes::Bytes, std::io::Error>> + Unpin {
    stream::iter(parts.iter().map(|p| Ok(bytes::Bytes::from_static(p))).collect::<Vec<_>>())
}

#[tokio::test]
async fn an_image_is_what_its_checksum_says_or_nothing() {
    for tier in Tier::both().await {
        let (service, ops) = (&tier.service, yiqiu_base::Principal { owner: String::new(), ..ops() });
        let sha256 = digest(b"one two");
        for (sha, bytes) in [("short", 7), (&sha256[..], 0), (&sha256[..], -1), (&sha256[..], i64::MAX)] {
            assert_eq!(
                service.image_create(&ops, "i", sha, bytes, None).await.unwrap_err().code,
                Code::InvalidArgument
            );
        }
        let image = service.image_create(&ops, "i", &sha256, 7, None).await.unwrap();
        assert_eq!(image.state, ImageState::Pending);
        for wrong in [&[b"one".as_slice()][..], &[b"one two three"], &[b"one", b" TWO"]] {
            let refused = service.image_fill(&ops, "i", content(wrong)).await.unwrap_err();
            assert_eq!(refused.code, Code::ChecksumMismatch, "{refused}");
        }
        let broken = stream::iter([Ok(bytes::Bytes::from_static(b"one")), Err(std::io::Error::other("cut"))]);
        assert_eq!(service.image_fill(&ops, "i", broken).await.unwrap_err().code, Code::Unavailable);
        assert_eq!(service.image_get(&ops, "i").await.unwrap().state, ImageState::Pending);

        let ready = service.image_fill(&ops, "i", content(&[b"one", b" two"])).await.unwrap();
        assert_eq!(ready.state, ImageState::Ready);
        assert_eq!(service.image_fill(&ops, "i", content(&[b"other"])).await.unwrap(), ready, "filled once");
    }
}

#[tokio::test]
async fn a_tenants_image_is_its_own_and_one_in_use_stays() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let host = tier.host("a", 1, NodeType::Cm, size(1_000, 1 << 30)).await.host;
        let (service, who) = (&tier.service, tenant("t"));
        service.image_create(&who, "i", &digest(b"x"), 1, None).await.unwrap();
        let lines =
            [LineRequest { image: Some("i".into()), power: Some(Power::Off), ..line("one", &host, size(1, 1)) }];
        let empty = service.contract_create(&who, None, "c", &lines, None).await.unwrap_err();
        assert_eq!(empty.code, Code::WrongState, "it has no content yet");
        let image = service.image_fill(&who, "i", content(&[b"x"])).await.unwrap();
        let foreign = service.contract_create(&tenant("other"), None, "c", &lines, None).await.unwrap_err();
        assert_eq!(foreign.code, Code::NotFound);

        service.contract_create(&who, None, "c", &lines, None).await.unwrap();
        // Also by its id, which the tier remembers: another tenant is still refused.
        let by_id = [LineRequest { image: Some(image.id.to_string()), ..lines[0].clone() }];
        let foreign = service.contract_create(&tenant("other"), None, "c", &by_id, None).await.unwrap_err();
        assert_eq!(foreign.code, Code::NotFound);
        assert_eq!(service.image_delete(&who, "i").await.unwrap_err().code, Code::InUse);
        let opened = service.image_open(host.id, image.id, 0).await.unwrap();
        assert_eq!(opened.bytes, 1);
        let elsewhere = tier.host("b", 2, NodeType::Cm, size(1_000, 1 << 30)).await.host;
        assert_eq!(service.image_open(elsewhere.id, image.id, 0).await.unwrap_err().code, Code::NotFound);
    }
}
